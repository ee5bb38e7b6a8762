"""Image features by a named extractor."""
