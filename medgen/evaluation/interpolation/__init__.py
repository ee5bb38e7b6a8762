"""Whether interpolated slices equal thin ones."""
