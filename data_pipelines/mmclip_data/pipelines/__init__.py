"""Offline jobs that make or change shards; each is a config class and a function from it to a report."""
