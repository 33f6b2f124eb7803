"""Embeddings of pictures and captions in the layout of clip-retrieval, which indexes and serves them."""
