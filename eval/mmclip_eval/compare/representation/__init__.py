"""How alike two models' features of the same rows are: one measure a file, and all of them over the layers of a tower."""
