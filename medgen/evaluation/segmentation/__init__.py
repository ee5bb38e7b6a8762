"""A segmenter that learns from pairs of images and masks, and how well it finds the masks of others."""
