"""Objectives: conversions invert each other, weights agree with what they stand for."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.diffusion.objectives import diffusion_loss, loss_weight, target, to_x0
from medgen.diffusion.options import Objective, ScheduleConfig, check
from medgen.diffusion.schedules import Schedule
from medgen.errors import ConfigError

OBJECTIVES: list[Objective] = ["eps", "x0", "v", "flow"]
SCHEDULES = {
    "linear": ScheduleConfig(kind="linear", beta_start=1e-4),
    "scaled": ScheduleConfig(),
    "cosine": ScheduleConfig(kind="cosine"),
    "zero": ScheduleConfig(zero_terminal_snr=True),
    "flow": ScheduleConfig(kind="flow", shift=2.0),
}


def pair(seed: int, count: int) -> torch.Tensor:
    """x0 and noise, (2, B, 2, 3, 3)."""
    return torch.randn(2, count, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    objective=st.sampled_from(OBJECTIVES),
    times=st.lists(st.integers(0, 998), min_size=1, max_size=5),
    fraction=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
)
@settings(max_examples=200)
def test_output_of_a_perfect_network_gives_back_x0(
    name: str, objective: Objective, times: list[int], fraction: float, seed: int
) -> None:
    schedule = Schedule(SCHEDULES[name])
    x0, noise = pair(seed, len(times))
    t = torch.tensor(times) if fraction == 0 else torch.tensor(times) + fraction
    x_t = schedule.add_noise(x0, noise, t)
    output = target(objective, schedule, x0, noise, t)
    torch.testing.assert_close(to_x0(objective, schedule, output, x_t, t), x0, rtol=0, atol=1e-8)


@pytest.mark.parametrize("objective", ["x0", "v", "flow"])
@pytest.mark.parametrize("name", ["zero", "flow"])
def test_conversions_hold_at_pure_noise(name: str, objective: Objective) -> None:
    schedule = Schedule(SCHEDULES[name])
    x0, noise = pair(0, 1)
    t = torch.tensor([999])
    output = target(objective, schedule, x0, noise, t)
    torch.testing.assert_close(to_x0(objective, schedule, output, noise, t), x0)


def test_flow_target_points_from_noise_to_data() -> None:
    schedule = Schedule(SCHEDULES["flow"])
    x0, noise = pair(1, 1)
    velocity = target("flow", schedule, x0, noise, torch.tensor([500]))
    early, late = torch.tensor([700]), torch.tensor([200])
    moved = schedule.add_noise(x0, noise, late) - schedule.add_noise(x0, noise, early)
    torch.testing.assert_close(moved, (schedule.sigma(early) - schedule.sigma(late)) * velocity)


def test_v_is_that_of_diffusers() -> None:
    schedule = Schedule(SCHEDULES["scaled"])
    theirs = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.002, beta_end=0.02)
    x0, noise = pair(2, 4).float()
    t = torch.tensor([0, 10, 500, 999])
    torch.testing.assert_close(
        target("v", schedule, x0, noise, t), theirs.get_velocity(x0, noise, t), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(schedule.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t), rtol=1e-4, atol=1e-5)


def test_min_snr_weights_are_the_published_ones() -> None:
    schedule = Schedule(SCHEDULES["scaled"])
    t = torch.tensor([0, 50, 200, 500, 999])
    snr = compute_snr(DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.002, beta_end=0.02), t).double()
    clipped = torch.minimum(snr, torch.tensor(5.0))
    assert clipped[0] == 5 > clipped[-1]  # both sides of the clip are tried
    published = {"eps": clipped / snr, "x0": clipped, "v": clipped / (snr + 1), "flow": torch.ones(5).double()}
    for objective, expected in published.items():
        weight = loss_weight(objective, schedule, t, 5.0)  # type: ignore[arg-type]
        torch.testing.assert_close(weight, expected, rtol=1e-3, atol=0)
        assert torch.equal(loss_weight(objective, schedule, t, None), torch.ones(5).double())  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", ["eps", "x0", "v"])
def test_min_snr_weighs_the_same_error_of_x0_alike_for_every_objective(objective: Objective) -> None:
    schedule = Schedule(SCHEDULES["cosine"])
    x0, noise = pair(3, 6)
    t = torch.tensor([0, 100, 300, 500, 700, 990])
    x_t = schedule.add_noise(x0, noise, t)
    output = target(objective, schedule, x0, noise, t) + 0.01 * pair(4, 6)[0]
    loss = diffusion_loss(output, objective, schedule, x0, noise, t, min_snr_gamma=5.0)
    error = (to_x0(objective, schedule, output, x_t, t) - x0).square().flatten(1).mean(1)
    torch.testing.assert_close(loss, schedule.snr(t).clamp(max=5) * error)


def test_loss_is_the_mean_square_of_each_sample_in_float32() -> None:
    schedule = Schedule(SCHEDULES["scaled"])
    x0, noise = pair(5, 2).float()
    output = noise.clone()
    output[1] += 0.5
    t = torch.tensor([3, 700])
    loss = diffusion_loss(output, "eps", schedule, x0, noise, t)
    torch.testing.assert_close(loss, torch.tensor([0.0, 0.25]))
    assert diffusion_loss(output.bfloat16(), "eps", schedule, x0, noise, t).dtype == torch.float32


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_eps_is_refused_where_it_is_undefined_and_only_there(name: str, objective: Objective) -> None:
    if objective == "eps" and name in ("zero", "flow"):
        with pytest.raises(ConfigError, match="eps"):
            check(objective, SCHEDULES[name])
    else:
        check(objective, SCHEDULES[name])
