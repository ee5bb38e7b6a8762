"""Diffusion and flow matching on tensors: noise schedules, objectives, samplers, guidance, per-sample noise."""
