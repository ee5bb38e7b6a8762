"""Diffusion and flow matching on tensors: noise schedules, objectives, samplers, guidance, noise, slice profiles."""
