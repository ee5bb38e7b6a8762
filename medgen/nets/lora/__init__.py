"""Adapters: small trainable changes to the layers of a frozen network (LoRA, Hu et al. 2022)."""
