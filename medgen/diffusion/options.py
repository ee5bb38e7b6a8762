"""Options for noise schedules, objectives and sampling: light enough for command files to import."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import msgspec

from medgen.config import Options, option
from medgen.errors import ConfigError

SAMPLING = "Sampling"
"""Heading of the options below in the help of commands."""

Objective = Literal["eps", "x0", "v", "flow"]
ScheduleKind = Literal["linear", "scaled_linear", "cosine", "flow"]
ProfileShape = Literal["box", "gaussian"]
SamplerName = Literal["dpm-solver++", "unipc", "ddim", "ddpm", "euler", "heun"]
Spacing = Literal["log-snr", "karras", "angle", "trailing"]
"""The quantity that changes evenly from step to step: log(sigma / alpha); (sigma / alpha)^(1/7) (Karras et al. 2022,
eq. 5); atan(sigma / alpha); or t itself, to one step before the data (Lin et al. 2024, table 2)."""
Times = Spacing | tuple[float, ...]
"""A spacing, or the falling times themselves."""
TIMES = option(
    "What the steps are equal in; or the times themselves, falling from noise (large) to data (0).",
    metavar="log-snr|karras|angle|trailing|T,T,...",
    group=SAMPLING,
    instead_of=("steps", "flow_steps"),
)
"""Times need not be integers; they are in [0, T - 1], and a list of them replaces `steps`."""


GuidanceShape = Literal["constant", "linear", "cosine", "interval"] | tuple[float, float]
"""How the scale of guidance goes from noise to data; or the shares of noise between which there is any."""
PUBLISHED_INTERVAL = (0.22, 0.74)
"""Shares of noise, sigma / (alpha + sigma); sigma / alpha is 0.28 to 2.9 (Kynkaanniemi et al. 2024, EDM2-S)."""


class ScheduleConfig(Options, frozen=True):
    """How noise grows with the timestep.

    `linear`, `scaled_linear` and `cosine` keep the variance (alpha^2 + sigma^2 = 1); `flow` is the straight path
    (alpha + sigma = 1). The betas belong to the two linear kinds. `shift` multiplies sigma/alpha everywhere
    (Hoogeboom et al. 2023; for `flow` the timestep shift of Esser et al. 2024, eq. 23). `zero_terminal_snr` makes
    the last timestep pure noise (Lin et al. 2024), which `flow` always does.
    """

    kind: ScheduleKind = "scaled_linear"
    steps: Annotated[int, msgspec.Meta(ge=2)] = 1000
    beta_start: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.002
    beta_end: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.02
    shift: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        if self.beta_end < self.beta_start:
            raise ConfigError(f"schedule: beta_end ({self.beta_end}) must not be below beta_start ({self.beta_start})")

    @property
    def ends_in_noise(self) -> bool:
        """Whether the last timestep holds no trace of the data (alpha = 0)."""
        return self.kind == "flow" or self.zero_terminal_snr


def check(objective: Objective, config: ScheduleConfig) -> None:
    """ConfigError if the objective is undefined on the path: at alpha = 0, the noise does not determine x0."""
    if objective == "eps" and config.ends_in_noise:
        cause = "a flow schedule" if config.kind == "flow" else "zero_terminal_snr"
        raise ConfigError(f"objective 'eps' is undefined at pure noise, where {cause} ends; use 'v', 'x0' or 'flow'")


class SamplingOptions(Options, frozen=True):
    """How to get from noise to data, for every command that samples."""

    sampler: Annotated[SamplerName, option("How each step is computed.", group=SAMPLING)] = "unipc"
    steps: Annotated[int, option("Steps from noise to data.", group=SAMPLING, ge=1)] = 20
    """Each step calls the network once; with `heun`, all but the last call it twice."""
    times: Annotated[Times, TIMES] = "log-snr"
    eta: Annotated[float, option("Share of fresh noise in ddim.", metavar="ETA", group=SAMPLING, ge=0, le=1)] = 0.0

    def __post_init__(self) -> None:
        if self.eta > 0 and self.sampler != "ddim":
            raise ConfigError(f"eta belongs to the sampler 'ddim', not to '{self.sampler}'; leave it at 0")
        if isinstance(self.times, tuple) and not (self.times and all(a > b for a, b in pairwise((*self.times, -1)))):
            raise ConfigError("times must fall, from noise (large) to data (0), as 999, 500.5, 100 do")

    def told(self) -> str:
        """Sampler and steps, in words."""
        if isinstance(self.times, tuple):
            return f"{self.sampler} at {len(self.times)} given times"
        return f"{self.sampler} with {self.steps} {self.times} steps"
