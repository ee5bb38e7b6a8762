"""Folders in the layout of the diffusers library as trained networks of ours, and back."""
