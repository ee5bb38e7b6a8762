"""What a text adds to a UNet: the states of its words, a pooled vector, and its modality."""
