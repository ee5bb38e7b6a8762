"""Metric: whether images show what their texts say."""
