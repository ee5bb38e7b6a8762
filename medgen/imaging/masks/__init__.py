"""Masks: where their files are, what they hold, and new ones made from them."""
