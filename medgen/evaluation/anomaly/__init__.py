"""Whether anomaly maps find what is ill."""
