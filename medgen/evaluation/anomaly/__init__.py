"""Whether anomaly maps find lesions."""
