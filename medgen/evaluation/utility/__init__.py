"""Whether synthetic pairs help to train a segmenter."""
