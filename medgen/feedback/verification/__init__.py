"""Verification: measuring in an image what it was asked to show."""
