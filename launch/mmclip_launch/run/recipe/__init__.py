"""What fine-tuning adds to a run: chosen samples, class heads, early stopping, what must be retained."""
