"""Samplers on Gaussian data, whose optimal denoiser is known: mean and spread must arrive where they belong.

With that denoiser every sampler is an affine map of its starting point and of each noise it draws, so that mean and
variance of its output follow exactly from probing it with unit vectors: no random numbers, no sampling error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from medgen.diffusion.noise import NoiseStream
from medgen.diffusion.objectives import target
from medgen.diffusion.options import Objective, SamplerName, SamplingOptions, ScheduleConfig, Spacing
from medgen.diffusion.samplers import SAMPLERS
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.diffusion.times import first_time

MEAN = torch.tensor([0.7, -1.5], dtype=torch.float64)
STD = torch.tensor([0.6, 1.6], dtype=torch.float64)
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
    name: SamplerName,
    config: ScheduleConfig,
    objective: Objective,
    steps: int,
    eta: float = 0.0,
    start: float | None = None,
    times: Spacing = "trailing",
) -> tuple[Tensor, Tensor]:
    """Exact mean and standard deviation (2,) of the sampler's output."""
    schedule = Schedule(config)
    first = first_time(schedule, objective) if start is None else start
    alpha, sigma = schedule.alpha_sigma(torch.tensor(first, dtype=torch.float64))
    mean, std = alpha * MEAN, (alpha**2 * STD**2 + sigma**2).sqrt()
    x = mean.repeat(steps + 2, 1)  # row 0: the mean; row 1: a deviation at the start; row 2 + k: one in step k's noise
    x[1] += std

    def noise(step: int) -> Tensor:
        probe = torch.zeros_like(x)
        probe[2 + step] = 1
        return probe

    options = SamplingOptions(sampler=name, steps=steps, times=times, eta=eta)
    out = sample(optimal(schedule, objective), x, schedule, objective, options, noise=noise, start=start)
    return out[0], (out[1:] - out[0]).square().sum(0).sqrt()


def distance(name: SamplerName, config: ScheduleConfig, objective: Objective, steps: int, **options: Any) -> float:
    mean, std = arrival(name, config, objective, steps, **options)
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
        ("dpm-solver++", 0.0, 0.02),
        ("unipc", 0.0, 0.02),
    ],
)
def test_every_sampler_arrives(
    config: str, objective: Objective, name: SamplerName, eta: float, tolerance: float
) -> None:
    assert distance(name, CONFIGS[config], objective, 100, eta=eta) < tolerance


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("times", ["log-snr", "karras", "angle"])
@pytest.mark.parametrize("name", ["dpm-solver++", "unipc", "heun"])
def test_every_spacing_arrives(config: str, times: Spacing, name: SamplerName) -> None:
    assert distance(name, CONFIGS[config], "v", 50, times=times) < 0.02


@pytest.mark.parametrize("config", ["linear", "cosine", "flow", "flow-shifted"])
@pytest.mark.parametrize("name", ["heun", "dpm-solver++", "unipc"])
def test_second_order_pays_from_noise_to_data(config: str, name: SamplerName) -> None:
    assert distance(name, CONFIGS[config], "v", 50) < distance("euler", CONFIGS[config], "v", 50) / 4


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpm-solver++", 2), ("unipc", 3)])
def test_error_falls_at_the_order_of_the_solver(name: SamplerName, order: int) -> None:
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
    coarse, fine = (distance("ddim", CONFIGS["cosine"], "v", steps, eta=eta) for steps in (50, 200))
    assert abs(math.log(coarse / fine, 4) - 1) < 0.1


@pytest.mark.parametrize("config", ["cosine", "flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_objectives_are_one_sampler(config: str, name: SamplerName) -> None:
    results = [torch.stack(arrival(name, CONFIGS[config], objective, 10)) for objective in ("x0", "v", "flow")]
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-7)
    torch.testing.assert_close(results[0], results[2], rtol=0, atol=1e-7)


@pytest.mark.parametrize("config", ["scaled", "flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_data_noised_halfway_arrives_too(config: str, name: SamplerName) -> None:
    mean, std = arrival(name, CONFIGS[config], "v", 50, start=400)
    torch.testing.assert_close(mean, MEAN, rtol=0, atol=0.02)
    torch.testing.assert_close(std, STD, rtol=0, atol=0.05)


@pytest.mark.parametrize("name", SAMPLERS)
def test_correlated_samples_have_the_covariance_of_the_data(name: SamplerName) -> None:
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

    options = SamplingOptions(sampler=name, steps=60)
    out = sample(denoise, noise.initial(), schedule, "eps", options, noise=noise.step)
    # Four standard errors of 4000 samples (0.06 and 0.09), and the bias of 60 steps.
    torch.testing.assert_close(out.mean(0), mean, rtol=0, atol=0.07)
    torch.testing.assert_close(out.T.cov(), covariance, rtol=0, atol=0.14)


SPREADS = torch.tensor([0.3, 0.6, 1.0, 2.0], dtype=torch.float64)


def spread_kept(config: ScheduleConfig, objective: Objective, options: SamplingOptions, noisy: float = 0.0) -> Tensor:
    """Share of the true standard deviations `SPREADS` that samples of a perfect network have, (4,).

    `noisy` is the standard deviation of an error in what it answers.
    """
    schedule = Schedule(config)
    noise = NoiseStream(0, range(2000), (4,))
    drawn = torch.Generator().manual_seed(0)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma_for(x, t)
        x0 = alpha * SPREADS**2 / (alpha**2 * SPREADS**2 + sigma**2) * x
        answer = target(objective, schedule, x0, (x - alpha * x0) / sigma, t)
        return answer + noisy * torch.randn(x.shape, generator=drawn, dtype=x.dtype)

    x = noise.initial().double()
    out = sample(denoise, (x - x.mean(0)) / x.std(0), schedule, objective, options)
    return out.std(0) / SPREADS


PRESETS: dict[str, tuple[ScheduleConfig, Objective]] = {
    "lidc-nodule": (ScheduleConfig(), "eps"),
    "dental-normalizer": (ScheduleConfig(kind="linear", beta_start=1e-4), "eps"),
    "ct-interpolation": (ScheduleConfig(kind="cosine"), "v"),
    "zero terminal SNR": (ScheduleConfig(zero_terminal_snr=True), "v"),
    "flow": (ScheduleConfig(kind="flow"), "flow"),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["dpm-solver++", "unipc"])
def test_a_few_steps_of_equal_log_snr_keep_the_spread(preset: str, name: SamplerName) -> None:
    """On schedules at full scale; four DDIM steps of equal time keep a third of it and less."""
    config, objective = PRESETS[preset]
    kept = spread_kept(config, objective, SamplingOptions(sampler=name, steps=8))
    assert (kept - 1).abs().max() < 0.09
    assert spread_kept(config, objective, SamplingOptions(sampler="ddim", steps=4, times="trailing")).min() < 0.75


@pytest.mark.parametrize("times", ["log-snr", "trailing"])
@pytest.mark.parametrize("name", ["ddim", "dpm-solver++", "unipc"])
@pytest.mark.parametrize("shift", [1.0, 4.0])
def test_errors_of_predicted_noise_are_not_multiplied(name: SamplerName, times: Spacing, shift: float) -> None:
    """Where alpha is 5e-5, an error in the noise comes back 20,000 times as large in x0."""
    config, options = ScheduleConfig(kind="cosine", shift=shift), SamplingOptions(sampler=name, steps=8, times=times)
    perfect, noisy = (spread_kept(config, "eps", options, noisy) for noisy in (0.0, 0.01))
    assert (noisy / perfect - 1).abs().max() < 0.05
