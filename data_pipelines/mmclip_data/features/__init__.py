"""One encode pass over any source, whose output does not depend on batch sizes."""
