"""Classifiers on fixed embeddings: what a little training, or none, makes of them. Tensors in, scores out."""
