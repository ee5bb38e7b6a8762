"""What a mask adds to a UNet: its features, a side network, and the two branches that train it."""
