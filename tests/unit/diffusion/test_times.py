"""When samplers ask the network: spacings, lists, where they begin and end."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medgen.diffusion.options import ScheduleConfig, Spacing
from medgen.diffusion.schedules import Schedule
from medgen.diffusion.times import FAINT, first_time, sampling_times
from medgen.errors import ConfigError

SPACINGS: list[Spacing] = ["log-snr", "karras", "angle", "trailing"]
CONFIGS = {
    "linear": ScheduleConfig(kind="linear", beta_start=1e-4),
    "scaled": ScheduleConfig(),
    "cosine": ScheduleConfig(kind="cosine"),
    "shifted": ScheduleConfig(kind="cosine", shift=4.0),
    "zero": ScheduleConfig(zero_terminal_snr=True),
    "flow": ScheduleConfig(kind="flow"),
    "few": ScheduleConfig(steps=10),
}


def ratio(schedule: Schedule, times: Tensor) -> Tensor:
    """sigma / alpha at these times."""
    alpha, sigma = schedule.alpha_sigma(times)
    return sigma / alpha


@given(
    name=st.sampled_from(sorted(CONFIGS)),
    spacing=st.sampled_from(SPACINGS),
    steps=st.integers(1, 1500),
    share=st.floats(0.001, 1.0),
)
@settings(max_examples=100)
def test_times_fall_from_the_start_to_where_the_network_knows_the_path(
    name: str, spacing: Spacing, steps: int, share: float
) -> None:
    schedule = Schedule(CONFIGS[name])
    start = share * (schedule.steps - 1)
    times = sampling_times(schedule, spacing, steps, start)
    assert times.dtype == torch.float64
    assert len(times) == steps
    assert times[0] == start
    assert times[-1] >= 0
    assert (times.diff() < 0).all()


@pytest.mark.parametrize("name", ["linear", "scaled"])
def test_spacings_are_even_in_what_they_are_called_after(name: str) -> None:
    schedule = Schedule(CONFIGS[name])
    start = first_time(schedule, "eps")  # sigma / alpha is at most FAINT, so that nothing is left out
    even = {
        "log-snr": lambda times: ratio(schedule, times).log(),
        "karras": lambda times: ratio(schedule, times) ** (1 / 7),
        "angle": lambda times: ratio(schedule, times).atan(),
        "trailing": lambda times: times,
    }
    for spacing in SPACINGS:
        gaps = even[spacing](sampling_times(schedule, spacing, 9, start)).diff()
        torch.testing.assert_close(gaps, gaps.mean().expand(8), rtol=1e-6, atol=0)


def test_spacings_end_at_the_least_noise_or_a_step_before_the_data() -> None:
    schedule = Schedule(CONFIGS["scaled"])
    for spacing in ("log-snr", "karras"):
        assert sampling_times(schedule, spacing, 12, 999.0)[-1] == pytest.approx(0, abs=1e-9)  # type: ignore[arg-type]
    assert sampling_times(schedule, "trailing", 12, 999.0)[-1] == pytest.approx(1000 / 12 - 1)
    angles = ratio(schedule, sampling_times(schedule, "angle", 12, 999.0)).atan()
    assert angles[-1] == pytest.approx(float(angles[0]) / 12)


@pytest.mark.parametrize("spacing", ["log-snr", "karras"])
@pytest.mark.parametrize("name", ["cosine", "shifted", "zero", "flow"])
def test_no_step_is_wasted_where_nothing_is_seen(name: str, spacing: Spacing) -> None:
    """The path may begin in pure noise, where log-SNR is infinite; the second step is among what can be seen."""
    schedule = Schedule(CONFIGS[name])
    times = sampling_times(schedule, spacing, 8, 999.0)
    assert times[0] == 999
    assert ratio(schedule, times[:1]) > FAINT
    assert ratio(schedule, times[1:2]) < FAINT / 2
    steps = ratio(schedule, times[1:])
    steps = steps.log() if spacing == "log-snr" else steps ** (1 / 7)
    torch.testing.assert_close(steps.diff(), steps.diff().mean().expand(6), rtol=1e-6, atol=0)


def test_a_list_is_walked_from_the_start() -> None:
    schedule = Schedule(CONFIGS["scaled"])
    wanted = (999.0, 700.25, 301.5, 20.0)
    assert sampling_times(schedule, wanted, 50, 999.0).tolist() == list(wanted)
    assert sampling_times(schedule, wanted, 50, 400.0).tolist() == [400.0, 301.5, 20.0]
    assert sampling_times(schedule, (500.0,), 50, 999.0).tolist() == [999.0, 500.0]
    with pytest.raises(ConfigError, match=r"time 1000 lies outside \[0, 999\]"):
        sampling_times(schedule, (1000.0, 3.0), 50, 999.0)
    with pytest.raises(ConfigError, match="start"):
        sampling_times(schedule, wanted, 50, 999.5)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_at_the_data_there_is_nothing_to_divide(spacing: Spacing) -> None:
    assert sampling_times(Schedule(CONFIGS["linear"]), spacing, 5, 0.0).tolist() == [0.0]


def test_predicted_noise_begins_where_something_is_seen() -> None:
    for name in ("linear", "scaled", "cosine", "shifted"):
        schedule = Schedule(CONFIGS[name])
        start = first_time(schedule, "eps")
        assert ratio(schedule, torch.tensor([start], dtype=torch.float64)).item() == pytest.approx(FAINT)
        assert first_time(schedule, "v") == 999
    short = Schedule(ScheduleConfig(beta_start=0.00085, beta_end=0.012))  # sigma / alpha is 14.6 at most
    assert first_time(short, "eps") == 999


@given(name=st.sampled_from(sorted(CONFIGS)), share=st.floats(0, 1))
def test_the_angle_tells_the_time(name: str, share: float) -> None:
    schedule = Schedule(CONFIGS[name])
    t = torch.tensor([share * (schedule.steps - 1)], dtype=torch.float64)
    torch.testing.assert_close(schedule.time_at(schedule.angle(t)), t, rtol=0, atol=1e-6)


def test_an_angle_that_the_path_lacks_is_its_nearer_end() -> None:
    for config in CONFIGS.values():
        schedule = Schedule(config)
        ends = schedule.time_at(torch.tensor([0.0, math.pi / 2], dtype=torch.float64))
        assert ends.tolist() == [0, schedule.steps - 1]


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"few"}))
@pytest.mark.parametrize("level", [0.1, 0.4, 0.7, 0.9])
def test_a_noise_level_is_one_signal_to_noise_ratio_on_every_path(name: str, level: float) -> None:
    schedule = Schedule(CONFIGS[name])
    t = torch.tensor([schedule.time_of(level)], dtype=torch.float64)
    assert schedule.snr(t).item() == pytest.approx(((1 - level) / level) ** 2)


@pytest.mark.parametrize("level", [0.0, 0.005, 0.995, 1.0, float("nan")])
def test_a_noise_level_that_was_not_trained_on_is_refused(level: float) -> None:
    with pytest.raises(ConfigError, match=r"lies outside the model's training, which held 0.0099 to 0.9937"):
        Schedule(CONFIGS["linear"]).time_of(level)
