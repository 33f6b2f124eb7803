"""The section of one evaluation set: its pictures with the model's answers, and the shape of its embeddings."""
