"""What experts say of images, and what is made of it."""
