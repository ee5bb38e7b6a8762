"""Sentences that say what an image shows: made from fields, varied in training, and found again by their words."""
