"""How images look: features that are not trained here, and the similarity of two images."""
