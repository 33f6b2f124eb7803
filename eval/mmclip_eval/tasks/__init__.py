"""What can be measured on an evaluation set: one task a file, and the registry that a configuration chooses from."""
