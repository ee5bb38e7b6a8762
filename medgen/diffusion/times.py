"""The times at which a sampler calls the network: any real times in [0, T - 1], even if training used integers only."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medgen.diffusion.options import Objective, Times
from medgen.diffusion.schedules import Schedule
from medgen.errors import ConfigError

FAINT = 100.0
"""sigma / alpha at which nothing of the data is visible. Nearer to pure noise, a step in log-SNR is wasted, and an
error in predicted noise is multiplied by this ratio in x0."""
RHO = 7.0
"""The rho of Karras et al. 2022."""


def first_time(schedule: Schedule, objective: Objective) -> float:
    """Where sampling of noise begins: T - 1; for predicted noise where sigma / alpha is `FAINT`, if that is earlier."""
    if objective != "eps":
        return schedule.steps - 1.0
    return float(schedule.time_at(torch.tensor(math.atan(FAINT), dtype=torch.float64)))


def sampling_times(schedule: Schedule, times: Times, steps: int, start: float) -> Tensor:
    """Decreasing times, float64, beginning with `start`: `steps` of them, or those of a list that lie below it.

    Spacings end at t = 0, the least noise that the network knows; `angle` and `trailing` end one step before the data.
    Raises ConfigError for times outside [0, T - 1].
    """
    last = schedule.steps - 1
    if not 0 <= start <= last:
        raise ConfigError(f"start time {start:g} lies outside [0, {last}]")
    if isinstance(times, tuple):
        for time in times:
            if not 0 <= time <= last:
                raise ConfigError(f"time {time:g} lies outside [0, {last}], the times of the model")
        return torch.tensor([start, *(time for time in times if time < start)], dtype=torch.float64)
    if start == 0:
        return torch.zeros(1, dtype=torch.float64)
    if times == "trailing":
        return _ramp(start, max((start + 1) / steps - 1, 0.0), steps)
    high, low = schedule.angle(torch.tensor([start, 0.0], dtype=torch.float64)).tolist()
    if times == "angle":
        angles = _ramp(high, max(high / steps, low), steps)
    else:
        most, least = min(math.tan(high), FAINT), math.tan(low)
        if times == "log-snr":
            angles = _ramp(math.log(most), math.log(least), steps).exp().atan()
        else:
            angles = (_ramp(most ** (1 / RHO), least ** (1 / RHO), steps) ** RHO).atan()
    spaced = schedule.time_at(angles)
    spaced[0] = start
    return spaced


def _ramp(first: float, last: float, steps: int) -> Tensor:
    """`steps` even numbers from `first` to `last`; `first` alone for one step."""
    return torch.linspace(first, last, steps, dtype=torch.float64)
