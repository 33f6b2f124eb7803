"""Processes that stop answering: heartbeats, who is to blame, and what is written down."""
