"""Whether samples look like real images."""
