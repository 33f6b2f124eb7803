"""How a run is told to end, and how all its processes end at the same step."""
