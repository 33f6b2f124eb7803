"""Two models side by side: what they make of the same examples, and whether one can stand in for the other."""
