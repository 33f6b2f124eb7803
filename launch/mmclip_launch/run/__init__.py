"""One training run: its configuration, its folder, and what surrounds its steps."""
