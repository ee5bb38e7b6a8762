"""A chest in CT."""
