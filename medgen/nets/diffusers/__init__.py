"""Networks of the diffusers library as ours, and back: their settings, and the names and layouts of their weights."""
