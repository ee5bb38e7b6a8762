"""The selector: learning from ratings how good an image is."""
