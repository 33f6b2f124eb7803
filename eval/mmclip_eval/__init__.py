"""Evaluation: embeddings in, named numbers with their intervals and their chance levels out."""
