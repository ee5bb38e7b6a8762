"""From slices to cases: which there are, and how they are stored."""
