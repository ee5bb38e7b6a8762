"""How images look: features that no one trained here, and how alike two images are."""
