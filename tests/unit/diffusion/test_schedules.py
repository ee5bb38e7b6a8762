"""Schedules against their closed forms and against diffusers."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medgen.config import convert
from medgen.diffusion.options import ScheduleConfig
from medgen.diffusion.schedules import Schedule
from medgen.errors import ConfigError

EVERY_T = torch.arange(1000)
DIFFUSERS_NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
CONFIGS = [
    ScheduleConfig(kind="linear", beta_start=1e-4),
    ScheduleConfig(),
    ScheduleConfig(kind="cosine"),
    ScheduleConfig(shift=4.0),
    ScheduleConfig(zero_terminal_snr=True),
    ScheduleConfig(kind="flow"),
    ScheduleConfig(kind="flow", shift=3.0),
]


@pytest.mark.parametrize("kind", DIFFUSERS_NAMES)
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_alphas_match_diffusers(kind: str, zero_terminal_snr: bool) -> None:
    ours = Schedule(ScheduleConfig(kind=kind, zero_terminal_snr=zero_terminal_snr))  # type: ignore[arg-type]
    theirs = DDIMScheduler(
        beta_start=0.002,
        beta_end=0.02,
        beta_schedule=DIFFUSERS_NAMES[kind],
        rescale_betas_zero_snr=zero_terminal_snr,
    )
    # Their tables are float32, and the rescaled one goes through betas, where 1 - beta loses digits.
    torch.testing.assert_close(ours.alpha(EVERY_T) ** 2, theirs.alphas_cumprod.double(), rtol=2e-4, atol=1e-6)


def test_cosine_follows_its_closed_form_until_the_clipped_end() -> None:
    f = torch.cos((torch.arange(1001, dtype=torch.float64) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(Schedule(ScheduleConfig(kind="cosine")).alpha(EVERY_T[:-1]) ** 2, f[1:-1] / f[0])


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_sigmas_match_diffusers(shift: float) -> None:
    ours = Schedule(ScheduleConfig(kind="flow", shift=shift))
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    torch.testing.assert_close(ours.sigma(EVERY_T).flip(0), theirs.sigmas.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_noise_only_grows_and_paths_keep_their_norm(config: ScheduleConfig) -> None:
    schedule = Schedule(config)
    t = torch.arange(0, 999.01, 0.25, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() > 0).all()
    norm = alpha + sigma if config.kind == "flow" else alpha**2 + sigma**2
    torch.testing.assert_close(norm, torch.ones_like(norm), rtol=0, atol=1e-14)
    torch.testing.assert_close(schedule.snr(t), (alpha / sigma) ** 2)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_float_and_integer_times_are_one_scale(config: ScheduleConfig) -> None:
    schedule = Schedule(config)
    assert torch.equal(schedule.alpha(EVERY_T), schedule.alpha(EVERY_T.float()))
    assert torch.equal(schedule.sigma(EVERY_T), schedule.sigma(EVERY_T.float()))


@pytest.mark.parametrize("config", [c for c in CONFIGS if c.ends_in_noise], ids=repr)
def test_pure_noise_is_exact(config: ScheduleConfig) -> None:
    schedule = Schedule(config)
    last = torch.tensor([999])
    assert schedule.alpha(last).item() == 0
    assert schedule.sigma(last).item() == 1
    assert schedule.snr(last).item() == 0


def test_zero_terminal_snr_leaves_the_first_timestep() -> None:
    first = torch.tensor([0])
    plain, rescaled = Schedule(ScheduleConfig()), Schedule(ScheduleConfig(zero_terminal_snr=True))
    torch.testing.assert_close(plain.alpha(first), rescaled.alpha(first), rtol=1e-14, atol=0)


@given(shift=st.floats(0.1, 10), kind=st.sampled_from(["linear", "scaled_linear", "cosine", "flow"]))
@settings(max_examples=30)
def test_shift_multiplies_sigma_over_alpha(shift: float, kind: str) -> None:
    plain, shifted = Schedule(ScheduleConfig(kind=kind)), Schedule(ScheduleConfig(kind=kind, shift=shift))  # type: ignore[arg-type]
    t = EVERY_T[:-1]
    torch.testing.assert_close(shifted.sigma(t) / shifted.alpha(t), shift * plain.sigma(t) / plain.alpha(t))


def test_flow_shift_is_the_published_one() -> None:
    s = (EVERY_T + 1).double() / 1000
    torch.testing.assert_close(Schedule(ScheduleConfig(kind="flow", shift=3.0)).sigma(EVERY_T), 3 * s / (1 + 2 * s))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_add_noise_is_the_path_in_at_least_float32(dtype: torch.dtype) -> None:
    schedule = Schedule(ScheduleConfig())
    x0, noise = torch.randn(2, 3, 1, 4, 4).to(dtype)
    t = torch.tensor([0, 500, 999])
    x_t = schedule.add_noise(x0, noise, t)
    assert x_t.dtype == torch.promote_types(dtype, torch.float32)
    for row in range(3):
        alpha, sigma = schedule.alpha(t)[row].item(), schedule.sigma(t)[row].item()
        expected = alpha * x0[row].double() + sigma * noise[row].double()
        torch.testing.assert_close(x_t[row].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "flow"])
def test_training_times_are_uniform_and_reproducible(kind: str) -> None:
    schedule = Schedule(ScheduleConfig(kind=kind))  # type: ignore[arg-type]

    def draw() -> Tensor:
        return schedule.sample_times(20000, torch.Generator().manual_seed(3))

    times = draw()
    assert torch.equal(times, draw())
    assert times.is_floating_point() == (kind == "flow")
    assert times.min() >= 0
    assert times.max() <= 999
    share = torch.histc(times.float(), bins=10, min=0, max=999) / 20000
    assert (share - 0.1).abs().max() < 0.01  # five standard deviations


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beta_start": 0.03}, "beta_end"),
        ({"steps": 1}, "steps"),
        ({"shift": 0.0}, "shift"),
        ({"kind": "quadratic"}, "quadratic"),
    ],
)
def test_impossible_configurations_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        convert(ScheduleConfig, values, "schedule")
