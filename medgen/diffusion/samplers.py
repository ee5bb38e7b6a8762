"""Samplers: pure functions from noise to data, on any Gaussian path and for any objective.

Every sampler calls the network through `predict(x, step) -> (x0, eps)` and follows the same `Path`, whose last point is
the data itself (alpha = 1, sigma = 0), so that each ends at its last estimate of x0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from torch import Tensor

from medgen.diffusion.options import SamplerName

StepNoise = Callable[[int], Tensor]
"""Step number -> fresh standard normal noise of x's shape."""
Predict = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""State (B, ...) and number of the point -> estimates of x0 and of the noise in it."""
Point = tuple[float, float]
"""alpha and sigma."""
Path = Sequence[Point]
"""The N + 1 points that N steps visit, from noise to data."""
Sampler = Callable[[Predict, Tensor, Path, StepNoise | None, float], Tensor]


def ddim(predict: Predict, x: Tensor, path: Path, noise: StepNoise | None, eta: float) -> Tensor:
    """Song et al. 2021, eq. 12, with the posterior variance written for any path (Kingma et al. 2021, eq. 32)."""
    for step, (point, following) in enumerate(pairwise(path)):
        x, fresh = ddim_step(*predict(x, step), point, following, eta)
        if fresh > 0:
            if noise is None:
                raise ValueError("this sampler draws fresh noise: pass noise=")
            x = x + fresh * noise(step).to(x)
    return x


def ddim_step(x0: Tensor, eps: Tensor, point: Point, following: Point, eta: float) -> tuple[Tensor, float]:
    """Mean (B, ...) and standard deviation of the next state, from estimates of x0 and of the noise (B, ...)."""
    (alpha, sigma), (next_alpha, next_sigma) = point, following
    # Variance that the forward process adds between the next point and this one.
    added = max(sigma**2 - (alpha / next_alpha * next_sigma) ** 2, 0.0)
    fresh = eta * next_sigma / sigma * added**0.5
    return next_alpha * x0 + max(next_sigma**2 - fresh**2, 0.0) ** 0.5 * eps, fresh


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
    flow. The sigma / alpha of Karras et al. is infinite at pure noise, and the first step is inaccurate close to it.
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
    for step, (point, following) in enumerate(pairwise(path)):
        x0, _ = predict(x, step)
        h = _half_log_snr(point, following)
        x = _advanced(x, point, following, _extrapolated(x0, previous_x0, h, previous_h))
        previous_x0, previous_h = x0, h
    return x


def unipc(predict: Predict, x: Tensor, path: Path, noise: StepNoise | None, eta: float) -> Tensor:
    """UniPC-2 with B(h) = e^h - 1 (Zhao et al. 2023, algorithms 5 and 6), one evaluation a step.

    DPM-Solver++(2M) predicts the next state; the network's output there corrects the step, to order three, and is used
    for the next prediction too.
    """
    x0, _ = predict(x, 0)
    previous_x0, previous_h = None, 0.0
    for step, (point, following) in enumerate(pairwise(path), start=1):
        h = _half_log_snr(point, following)
        predicted = _advanced(x, point, following, _extrapolated(x0, previous_x0, h, previous_h))
        if following[1] == 0:
            return predicted
        next_x0, _ = predict(predicted, step)
        estimate = x0 + 0.5 * (next_x0 - x0)
        if previous_x0 is not None:
            # Weights of a parabola in log-SNR through three estimates, under the exponential of the exact solution.
            wide = max(h, 1e-3)  # terms in 1 / h^2 would be lost in rounding
            shrunk = math.expm1(-wide)
            first = -1 / wide - 1 / shrunk
            second = 2 * (1 / wide**2 + 1 / (wide * shrunk)) - 1 / shrunk
            ratio = previous_h / h
            before = (first - second) / (1 + ratio)
            estimate = x0 + (first - before) * (next_x0 - x0) + before / ratio * (x0 - previous_x0)
        x = _advanced(x, point, following, estimate)
        previous_x0, previous_h, x0 = x0, h, next_x0
    return x


def _half_log_snr(point: Point, following: Point) -> float:
    """Rise of log(alpha / sigma) in a step; infinite away from pure noise and to the data."""
    (alpha, sigma), (next_alpha, next_sigma) = point, following
    return math.log(next_alpha * sigma / (next_sigma * alpha)) if alpha > 0 and next_sigma > 0 else math.inf


def _extrapolated(x0: Tensor, previous_x0: Tensor | None, h: float, previous_h: float) -> Tensor:
    """x0 halfway through a step of h, by the line through both estimates; flat into the data."""
    if previous_x0 is None or h == math.inf:
        return x0
    return x0 + h / (2 * previous_h) * (x0 - previous_x0)


def _advanced(x: Tensor, point: Point, following: Point, x0: Tensor) -> Tensor:
    """The next state if x0 is constant during the step (Lu et al. 2022, eq. 9)."""
    decay = following[1] / point[1]
    return decay * x + (following[0] - decay * point[0]) * x0


SAMPLERS: Mapping[SamplerName, Sampler] = {
    "dpm-solver++": dpm_solver_pp_2m,
    "unipc": unipc,
    "ddim": ddim,
    "ddpm": ddpm,
    "euler": euler,
    "heun": heun,
}
