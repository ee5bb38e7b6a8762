"""Read image files."""
