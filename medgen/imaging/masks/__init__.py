"""Masks: which belongs to which image, what they hold, which values are which classes, and new ones made from them."""
