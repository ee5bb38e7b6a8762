"""Tensors in .safetensors files: ours with checksums, and weights that come from elsewhere."""
