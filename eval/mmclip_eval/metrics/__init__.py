"""Metric maths: pure functions of scores and labels, tested on hand-made matrices."""
