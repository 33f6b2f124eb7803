"""Whole pages, each written as one file that needs no network."""
