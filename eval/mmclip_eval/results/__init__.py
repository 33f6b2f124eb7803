"""Results: a strict JSON file a (checkpoint, data set, task), and tables over any number of them, whoever wrote them."""
