"""Pixels, masks and labels in."""
