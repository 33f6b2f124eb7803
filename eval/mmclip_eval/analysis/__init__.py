"""What the embeddings of one model say, worked out before anything of it is drawn or judged."""
