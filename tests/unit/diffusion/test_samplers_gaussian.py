"""Samplers on Gaussian data, whose optimal denoiser is known: mean and spread must arrive where they belong.

With that denoiser every sampler is an affine map of its starting point and of each noise it draws, so that mean and
variance of its output follow exactly from probing it with unit vectors: no random numbers, no sampling error.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medgen.diffusion.noise import NoiseStream
from medgen.diffusion.objectives import Objective, target
from medgen.diffusion.samplers import SAMPLERS, sample
from medgen.diffusion.schedules import Schedule, ScheduleConfig

MEAN = torch.tensor([0.7, -1.5], dtype=torch.float64)
STD = torch.tensor([0.6, 1.6], dtype=torch.float64)
ODE_SAMPLERS = ["ddim", "euler", "heun", "dpm_solver_pp_2m"]
CONFIGS = {
    "linear": ScheduleConfig(kind="linear", beta_start=1e-4),
    "scaled": ScheduleConfig(),
    "cosine": ScheduleConfig(kind="cosine"),
    "shifted": ScheduleConfig(kind="cosine", shift=2.0),
    "zero": ScheduleConfig(zero_terminal_snr=True),
    "flow": ScheduleConfig(kind="flow"),
    "flow-shifted": ScheduleConfig(kind="flow", shift=3.0),
}
DEFINED = [
    (name, objective)
    for name, config in CONFIGS.items()
    for objective in ("eps", "x0", "v", "flow")
    if not (objective == "eps" and config.ends_in_noise)
]


def optimal(schedule: Schedule, objective: Objective) -> Callable[[Tensor, Tensor], Tensor]:
    """The network that training on N(MEAN, STD^2) would end in."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma_for(x, t)
        x0 = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)
        return target(objective, schedule, x0, (x - alpha * x0) / sigma, t)

    return denoise


def arrival(
    name: str, config: ScheduleConfig, objective: Objective, steps: int, eta: float = 0.0, start: int | None = None
) -> tuple[Tensor, Tensor]:
    """Exact mean and standard deviation (2,) of the sampler's output."""
    schedule = Schedule(config)
    alpha, sigma = schedule.alpha_sigma(torch.tensor(config.steps - 1 if start is None else start))
    mean, std = alpha * MEAN, (alpha**2 * STD**2 + sigma**2).sqrt()
    x = mean.repeat(steps + 2, 1)  # row 0: the mean; row 1: a deviation at the start; row 2 + k: one in step k's noise
    x[1] += std

    def noise(step: int) -> Tensor:
        probe = torch.zeros_like(x)
        probe[2 + step] = 1
        return probe

    out = sample(
        name, optimal(schedule, objective), x, schedule, objective, steps=steps, eta=eta, noise=noise, start=start
    )
    return out[0], (out[1:] - out[0]).square().sum(0).sqrt()


def distance(name: str, config: ScheduleConfig, objective: Objective, steps: int, eta: float = 0.0) -> float:
    mean, std = arrival(name, config, objective, steps, eta)
    return torch.stack([mean - MEAN, std - STD]).abs().max().item()


@pytest.mark.parametrize(("config", "objective"), DEFINED)
@pytest.mark.parametrize(
    ("name", "eta", "tolerance"),
    [
        ("ddpm", 0.0, 0.06),
        ("ddim", 0.5, 0.04),
        ("ddim", 0.0, 0.03),
        ("euler", 0.0, 0.03),
        ("heun", 0.0, 0.02),
        ("dpm_solver_pp_2m", 0.0, 0.02),
    ],
)
def test_every_sampler_arrives(config: str, objective: Objective, name: str, eta: float, tolerance: float) -> None:
    assert distance(name, CONFIGS[config], objective, 100, eta) < tolerance


@pytest.mark.parametrize("config", ["linear", "cosine", "flow", "flow-shifted"])
@pytest.mark.parametrize("name", ["heun", "dpm_solver_pp_2m"])
def test_second_order_pays_from_noise_to_data(config: str, name: str) -> None:
    assert distance(name, CONFIGS[config], "v", 50) < distance("euler", CONFIGS[config], "v", 50) / 4


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpm_solver_pp_2m", 2)])
def test_error_falls_at_the_order_of_the_solver(name: str, order: int) -> None:
    # From log-SNR -4 to 4 in even steps, away from both ends, where single steps are of order one.
    def error(steps: int) -> float:
        ratio = torch.linspace(-2, 2, steps + 1, dtype=torch.float64).exp()  # alpha / sigma
        sigmas = (1 + ratio**2).rsqrt()
        path = [*zip((ratio * sigmas).tolist(), sigmas.tolist(), strict=True)]

        def spread(point: int) -> Tensor:
            alpha, sigma = path[point]
            return torch.stack([alpha * MEAN, alpha * MEAN + (alpha**2 * STD**2 + sigma**2).sqrt()])

        def predict(x: Tensor, step: int) -> tuple[Tensor, Tensor]:
            alpha, sigma = path[step]
            x0 = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)
            return x0, (x - alpha * x0) / sigma

        # The exact flow of a Gaussian keeps every point at its number of standard deviations from the mean.
        return (SAMPLERS[name](predict, spread(0), path, None, 0.0) - spread(-1)).abs().max().item()

    assert abs(math.log2(error(64) / error(128)) - order) < 0.15


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_error_of_stochastic_samplers_falls_at_order_one(eta: float) -> None:
    coarse, fine = (distance("ddim", CONFIGS["cosine"], "v", steps, eta) for steps in (50, 200))
    assert abs(math.log(coarse / fine, 4) - 1) < 0.1


@pytest.mark.parametrize("config", ["cosine", "flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_objectives_are_one_sampler(config: str, name: str) -> None:
    results = [torch.stack(arrival(name, CONFIGS[config], objective, 10)) for objective in ("x0", "v", "flow")]
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-7)
    torch.testing.assert_close(results[0], results[2], rtol=0, atol=1e-7)


@pytest.mark.parametrize("config", ["scaled", "flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_data_noised_halfway_arrives_too(config: str, name: str) -> None:
    mean, std = arrival(name, CONFIGS[config], "v", 50, start=400)
    torch.testing.assert_close(mean, MEAN, rtol=0, atol=0.02)
    torch.testing.assert_close(std, STD, rtol=0, atol=0.05)


@pytest.mark.parametrize("name", SAMPLERS)
def test_correlated_samples_have_the_covariance_of_the_data(name: str) -> None:
    mean = torch.tensor([0.5, -0.5])
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.5]])
    schedule = Schedule(ScheduleConfig(kind="cosine"))
    count = 4000
    noise = NoiseStream(0, range(count), (2,))

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma_for(x, t)
        spread = alpha[0] ** 2 * covariance + sigma[0] ** 2 * torch.eye(2)
        x0 = mean + alpha[0] * (x - alpha[0] * mean) @ torch.linalg.solve(spread, covariance)
        return (x - alpha * x0) / sigma

    out = sample(name, denoise, noise.initial(), schedule, "eps", steps=60, noise=noise.step)
    # Four standard errors of 4000 samples (0.06 and 0.09), and the bias of 60 steps.
    torch.testing.assert_close(out.mean(0), mean, rtol=0, atol=0.07)
    torch.testing.assert_close(out.T.cov(), covariance, rtol=0, atol=0.14)
