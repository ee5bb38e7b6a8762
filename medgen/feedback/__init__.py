"""Experts' ratings of images."""
