"""The policy step: a trained denoiser learns to draw what is scored well."""
