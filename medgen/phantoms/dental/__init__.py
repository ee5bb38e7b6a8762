"""Teeth and jaws in a panoramic X-ray."""
