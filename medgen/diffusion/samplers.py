"""Samplers: pure functions from noise to data, on any Gaussian path and for any objective.

Every sampler sees the network through `predict(x, step) -> (x0, eps)` and walks the same `Path`, whose last point is
the data itself (alpha = 1, sigma = 0), so that all of them end at their last estimate of x0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from medgen.config import nearest
from medgen.diffusion.objectives import Objective, check, to_x0
from medgen.diffusion.schedules import Schedule, Spacing
from medgen.errors import ConfigError

Denoise = Callable[[Tensor, Tensor], Tensor]
"""The network: x_t (B, ...) and t (B,) -> its output (B, ...)."""
StepNoise = Callable[[int], Tensor]
"""Step number -> fresh standard normal noise of x's shape."""
Callback = Callable[[int, float, Tensor], Tensor | None]
"""Step number, timestep and x0 estimate (B, ...) -> a corrected estimate, or None to leave it."""
Predict = Callable[[Tensor, int], tuple[Tensor, Tensor]]


Path = Sequence[tuple[float, float]]
"""(alpha, sigma) at the N + 1 points that N steps visit, from noise to data."""
Sampler = Callable[[Predict, Tensor, Path, StepNoise | None, float], Tensor]


def sample(
    name: str,
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    objective: Objective,
    *,
    steps: int,
    spacing: Spacing = "trailing",
    eta: float = 0.0,
    noise: StepNoise | None = None,
    start: float | None = None,
    callback: Callback | None = None,
    clip: tuple[float, float] | None = None,
) -> Tensor:
    """x0 (B, ...) from x (B, ...), the state at the first timestep.

    x is standard normal noise, or, with `start`, data already noised to the timestep `start`; the `steps` then
    divide what is left of the path. `eta` in [0, 1] is the share of fresh noise in `ddim`. `noise` is needed by `ddpm`
    and by `ddim` with eta > 0. Each x0 estimate is first clamped to `clip` (for images; latents have no such
    bounds), then passed to `callback`, which `heun` calls twice a step. Gradients are the caller's choice.
    Raises ConfigError for a sampler, objective or number of steps that cannot be.
    """
    if name not in SAMPLERS:
        match = nearest(name, SAMPLERS)
        hint = f" (did you mean '{match}'?)" if match else ""
        raise ConfigError(f"no sampler '{name}'{hint}; samplers: {', '.join(SAMPLERS)}")
    if not 0 <= eta <= 1:
        raise ConfigError(f"eta {eta} lies outside [0, 1]")
    if eta > 0 and name != "ddim":
        raise ConfigError(f"eta belongs to the sampler 'ddim', not to '{name}'; leave it at 0")
    check(objective, schedule.config)
    timesteps = schedule.timesteps(steps, spacing, start)
    alphas, sigmas = schedule.alpha_sigma(timesteps)
    path = [*zip(alphas.tolist(), sigmas.tolist(), strict=True), (1.0, 0.0)]
    timesteps = timesteps.to(x.device)

    def predict(x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        t = timesteps[step].expand(len(x))  # (B,)
        x0 = to_x0(objective, schedule, denoise(x, t).to(x.dtype), x, t)
        if clip is not None:
            x0 = x0.clamp(*clip)
        if callback is not None:
            corrected = callback(step, float(timesteps[step]), x0)
            x0 = x0 if corrected is None else corrected
        alpha, sigma = path[step]
        return x0, (x - alpha * x0) / sigma

    return SAMPLERS[name](predict, x.to(torch.promote_types(x.dtype, torch.float32)), path, noise, eta)


def ddim(predict: Predict, x: Tensor, path: Path, noise: StepNoise | None, eta: float) -> Tensor:
    """Song et al. 2021, eq. 12, with the posterior variance written for any path (Kingma et al. 2021, eq. 32)."""
    for step, ((alpha, sigma), (next_alpha, next_sigma)) in enumerate(pairwise(path)):
        x0, eps = predict(x, step)
        # Variance that the forward process adds between the next point and this one.
        added = max(sigma**2 - (alpha / next_alpha * next_sigma) ** 2, 0.0)
        fresh = eta * next_sigma / sigma * added**0.5
        x = next_alpha * x0 + max(next_sigma**2 - fresh**2, 0.0) ** 0.5 * eps
        if fresh > 0:
            if noise is None:
                raise ValueError("this sampler draws fresh noise: pass noise=")
            x = x + fresh * noise(step).to(x)
    return x


def ddpm(predict: Predict, x: Tensor, path: Path, noise: StepNoise | None, eta: float) -> Tensor:
    """Ancestral sampling with the posterior variance (Ho et al. 2020, eq. 7), which is DDIM at eta = 1."""
    return ddim(predict, x, path, noise, 1.0)


def euler(predict: Predict, x: Tensor, path: Path, noise: StepNoise | None, eta: float) -> Tensor:
    """Euler's method on the probability-flow ODE d(x / alpha) / d(sigma / alpha) = eps (Karras et al. 2022).

    That is DDIM at eta = 0, and on the flow path the Euler method of rectified flow (Liu et al. 2023).
    """
    return ddim(predict, x, path, None, 0.0)


def heun(predict: Predict, x: Tensor, path: Path, noise: StepNoise | None, eta: float) -> Tensor:
    """Heun's method (Karras et al. 2022, algorithm 1), two evaluations a step and one in the last.

    The ODE is d(x / (alpha + sigma)) / ds = eps - x0 over s = sigma / (alpha + sigma) in [0, 1], the time of rectified
    flow. The sigma / alpha of Karras et al. is infinite at pure noise, and its first step is wild close to it.
    """
    for step, ((alpha, sigma), (next_alpha, next_sigma)) in enumerate(pairwise(path)):
        x0, eps = predict(x, step)
        euler_x = next_alpha * x0 + next_sigma * eps
        if next_sigma == 0:
            return euler_x
        next_x0, next_eps = predict(euler_x, step + 1)
        slope = (eps - x0 + next_eps - next_x0) / 2
        scale, next_scale = alpha + sigma, next_alpha + next_sigma
        x = next_scale * (x / scale + (next_sigma / next_scale - sigma / scale) * slope)
    return x


def dpm_solver_pp_2m(predict: Predict, x: Tensor, path: Path, noise: StepNoise | None, eta: float) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): x0 is extrapolated in half the log-SNR.

    The first and the last step are of order one.
    """
    previous_x0, previous_h = None, 0.0
    for step, ((alpha, sigma), (next_alpha, next_sigma)) in enumerate(pairwise(path)):
        x0, _ = predict(x, step)
        # Step in log(alpha / sigma); infinite away from pure noise, after which the extrapolation vanishes.
        h = math.log(next_alpha * sigma / (next_sigma * alpha)) if alpha > 0 and next_sigma > 0 else math.inf
        estimate = x0
        if previous_x0 is not None and next_sigma > 0:
            estimate = x0 + h / (2 * previous_h) * (x0 - previous_x0)
        decay = next_sigma / sigma
        x = decay * x + (next_alpha - decay * alpha) * estimate
        previous_x0, previous_h = x0, h
    return x


SAMPLERS: Mapping[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpm_solver_pp_2m": dpm_solver_pp_2m,
    "euler": euler,
    "heun": heun,
}
