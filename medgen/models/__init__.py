"""Trained networks: their kinds, how they are loaded, and what their files say about them."""
