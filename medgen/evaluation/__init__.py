"""Measuring sets, a folder for each question."""
