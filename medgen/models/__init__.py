"""Trained networks: what kinds there are, how they are loaded, and what they say about themselves."""
