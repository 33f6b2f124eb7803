"""Two models beside each other: what one sees as the other does, what has changed, and whether that is safe."""
