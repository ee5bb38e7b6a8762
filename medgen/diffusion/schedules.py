"""Noise schedules: the Gaussian paths x_t = alpha(t) x0 + sigma(t) noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medgen.diffusion.options import ScheduleConfig
from medgen.errors import ConfigError


class Schedule:
    """A path from data (t = 0) to noise (t = T - 1), on the scale of t that all networks share.

    t is an integer or float tensor of any shape with values in [0, T - 1]; coefficients come back in its shape, in
    float64 and on its device. The flow path is defined at every t by s = (t + 1) / T, so that t = T - 1 is pure
    noise. The others are tables over integer t, between which the angle atan(sigma / alpha) is interpolated: unlike
    the log-SNR, it stays finite at pure noise. On every path the angle rises with t, so that it determines t.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        self.steps = config.steps
        self._tables = {} if config.kind == "flow" else {torch.device("cpu"): _variance_preserving_table(config)}

    def alpha(self, t: Tensor) -> Tensor:
        """Share of the data in x_t."""
        return self.alpha_sigma(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        """Share of the noise in x_t."""
        return self.alpha_sigma(t)[1]

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha^2 / sigma^2."""
        alpha, sigma = self.alpha_sigma(t)
        return (alpha / sigma) ** 2

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Both coefficients at t."""
        if self.config.kind == "flow":
            s = (t.double() + 1) / self.steps
            alpha = (1 - s) / (1 + (self.config.shift - 1) * s)
            return alpha, 1 - alpha
        table = self._table_on(t.device)  # (2, T)
        if not t.is_floating_point():
            alpha, sigma = table[:, t]
            return alpha, sigma
        below = t.floor().long()
        above = (below + 1).clamp(max=self.steps - 1)
        fraction = t.double() - below
        angle = torch.atan2(table[1], table[0])
        between = torch.lerp(angle[below], angle[above], fraction)
        alpha = torch.where(fraction == 0, table[0, below], between.cos())
        sigma = torch.where(fraction == 0, table[1, below], between.sin())
        return alpha, sigma

    def alpha_sigma_for(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Both coefficients at t (B,) shaped to multiply x (B, ...), in x's precision but at least float32."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        shape = (-1,) + (1,) * (x.ndim - 1)
        alpha, sigma = self.alpha_sigma(t.to(x.device))
        return alpha.to(dtype).view(shape), sigma.to(dtype).view(shape)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (B, ...) from x0 (B, ...), noise (B, ...) and t (B,)."""
        alpha, sigma = self.alpha_sigma_for(x0, t)
        return alpha * x0 + sigma * noise

    def sample_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Training times (count,), uniform: floats in (0, T - 1] for flow, integers in [0, T - 1] otherwise."""
        device = generator.device
        if self.config.kind == "flow":
            return (1 - torch.rand(count, generator=generator, device=device)) * (self.steps - 1)
        return torch.randint(self.steps, (count,), generator=generator, device=device)

    def angle(self, t: Tensor) -> Tensor:
        """atan(sigma / alpha) at t, from near 0 (data) to at most pi / 2 (pure noise); its tangent is 1 / sqrt(SNR)."""
        alpha, sigma = self.alpha_sigma(t)
        return torch.atan2(sigma, alpha)

    def time_at(self, angle: Tensor) -> Tensor:
        """The times t of these angles, float64; the nearer end of [0, T - 1] for angles that the path lacks."""
        if self.config.kind == "flow":
            s = angle.sin() / (angle.sin() + self.config.shift * angle.cos())
            return (s * self.steps - 1).clamp(0, self.steps - 1)
        angles = self.angle(torch.arange(self.steps, device=angle.device))
        below = (torch.searchsorted(angles, angle, right=True) - 1).clamp(0, self.steps - 2)
        fraction = (angle - angles[below]) / (angles[below + 1] - angles[below])
        return below + fraction.clamp(0, 1)

    def time_of(self, noise_level: float) -> float:
        """The time at which the share of noise, sigma / (alpha + sigma), is `noise_level`: on every path the same SNR.

        Raises ConfigError if the path does not reach it.
        """
        ends = self.angle(torch.tensor([0.0, self.steps - 1.0], dtype=torch.float64)).tolist()
        low, high = (math.sin(angle) / (math.sin(angle) + math.cos(angle)) for angle in ends)
        if not low <= noise_level <= high:
            raise ConfigError(
                f"noise level {noise_level:g} lies outside the model's training, which held {low:.3g} to {high:.4g}"
            )
        angle = torch.tensor(math.atan2(noise_level, 1 - noise_level), dtype=torch.float64)
        return float(self.time_at(angle))

    def _table_on(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            self._tables[device] = self._tables[torch.device("cpu")].to(device)
        return self._tables[device]


def _variance_preserving_table(config: ScheduleConfig) -> Tensor:
    """(2, T) float64: alpha and sigma at integer t."""
    alpha_bar = torch.cumprod(1 - _betas(config), dim=0)
    if config.zero_terminal_snr:
        root = alpha_bar.sqrt()
        alpha_bar = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2  # Lin et al. 2024, algorithm 1
    noise = config.shift**2 * (1 - alpha_bar)
    return torch.stack([alpha_bar, noise]).div(alpha_bar + noise).sqrt()


def _betas(config: ScheduleConfig) -> Tensor:
    """(T,) variance added at each step."""
    if config.kind == "linear":  # Ho et al. 2020
        return torch.linspace(config.beta_start, config.beta_end, config.steps, dtype=torch.float64)
    if config.kind == "scaled_linear":  # Rombach et al. 2022: linear in sqrt(beta)
        return torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.steps, dtype=torch.float64) ** 2
    edges = torch.arange(config.steps + 1, dtype=torch.float64) / config.steps  # Nichol & Dhariwal 2021, eq. 17
    alpha_bar = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
