"""From noise to data: run a network, on its path and for its objective, with the chosen times and sampler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medgen.diffusion.objectives import to_x0
from medgen.diffusion.options import Objective, SamplingOptions, check
from medgen.diffusion.samplers import SAMPLERS, Path, StepNoise
from medgen.diffusion.schedules import Schedule
from medgen.diffusion.times import first_time, sampling_times

Denoise = Callable[[Tensor, Tensor], Tensor]
"""The network: x_t (B, ...) and t (B,) -> its output (B, ...)."""
Callback = Callable[[int, float, Tensor], Tensor | None]
"""Step number, time and x0 estimate (B, ...) -> a corrected estimate, or None to leave it."""


def sample(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    objective: Objective,
    options: SamplingOptions,
    *,
    start: float | None = None,
    noise: StepNoise | None = None,
    callback: Callback | None = None,
    clip: tuple[float, float] | None = None,
) -> Tensor:
    """x0 (B, ...) from x (B, ...), which is standard normal noise, or with `start` data noised to the time `start`.

    `noise` is needed by `ddpm` and by `ddim` with eta > 0. Each x0 estimate is first clamped to `clip` (for images;
    latents have no such bounds), then passed to `callback`, which `heun` calls twice a step. Gradients are the caller's
    choice. Raises ConfigError for an impossible objective or impossible times.
    """
    times, path = steps_of(schedule, objective, options, start)
    told = times.tolist()
    times = times.to(x.device)

    def predict(x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        t = times[step].expand(len(x))  # (B,)
        x0 = to_x0(objective, schedule, denoise(x, t).to(x.dtype), x, t)
        if clip is not None:
            x0 = x0.clamp(*clip)
        if callback is not None:
            corrected = callback(step, told[step], x0)
            x0 = x0 if corrected is None else corrected
        alpha, sigma = path[step]
        return x0, (x - alpha * x0) / sigma

    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return SAMPLERS[options.sampler](predict, x, path, noise, options.eta)


def steps_of(
    schedule: Schedule, objective: Objective, options: SamplingOptions, start: float | None = None
) -> tuple[Tensor, Path]:
    """The times (N,), float64, at which `sample` calls the network, and the N + 1 points from there to the data."""
    check(objective, schedule.config)
    begin = first_time(schedule, objective) if start is None else start
    times = sampling_times(schedule, options.times, options.steps, begin)
    alphas, sigmas = schedule.alpha_sigma(times)
    return times, [*zip(alphas.tolist(), sigmas.tolist(), strict=True), (1.0, 0.0)]
