"""How experts rated the images, and how far they agree."""
