"""Turn a diffusion time and a condition vector into one embedding for the residual blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from medgen.errors import DataError
from medgen.nets.blocks import zeroed

POSITION_OCTAVES = 3
"""Of the waves in which positions are told: the shortest is half as long as the image."""


def sinusoidal_embedding(time: Tensor, width: int) -> Tensor:
    """Return cos and sin of `time` at width/2 frequencies from 1 down to 1/10000 (Vaswani et al. 2017, 3.5).

    From (B,) to (B, width) in float32; an odd width ends in a zero.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=time.device)
    angles = time.float()[:, None] * torch.exp(-math.log(10000.0) * steps / half)  # (B, width/2)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return nn.functional.pad(embedding, (0, width % 2))


def with_octaves(vector: Tensor, octaves: int) -> Tensor:
    """Append sin and cos of 2^k pi v, k < octaves, to v (B, K) (Tancik et al. 2020): (B, K (1 + 2 octaves))."""
    angles = [math.pi * 2**k * vector for k in range(octaves)]
    return torch.cat([vector, *(wave for angle in angles for wave in (angle.sin(), angle.cos()))], dim=1)


class TimeEmbedder(nn.Module):
    """Sinusoids of the time, then a two-layer MLP."""

    def __init__(self, sinusoids: int, width: int) -> None:
        super().__init__()
        self.sinusoids = sinusoids
        self.first = nn.Linear(sinusoids, width)
        self.second = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        """Map time (B,) in [0, 1000) to (B, width)."""
        sinusoids = sinusoidal_embedding(time, self.sinusoids).to(self.first.weight.dtype)
        out: Tensor = self.second(nn.functional.silu(self.first(sinusoids)))
        return out


class VectorEmbedder(nn.Module):
    """MLP of a condition vector in [0, 1]^K, with a learned embedding for "no condition".

    The null embedding is a parameter of its own because every vector, all zeros included, is a real condition.
    """

    def __init__(self, size: int, hidden: int, width: int) -> None:
        super().__init__()
        self.size = size
        self.mlp = nn.Sequential(
            nn.Linear(size, hidden),
            nn.SiLU(),
            nn.Linear(hidden, width),
            nn.SiLU(),
            nn.Linear(width, width),
        )
        self.null = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, vector: Tensor | None, present: Tensor | None, batch: int) -> Tensor:
        """Map vector (B, K), None = all null, to (B, width); present (B,) bool, False = null."""
        if vector is None:
            return self.null.expand(batch, -1)
        if vector.shape != (batch, self.size):
            raise DataError(
                f"condition vector has shape {tuple(vector.shape)}, expected ({batch}, {self.size}): one row a sample"
            )
        embedding: Tensor = self.mlp(vector.to(self.null.dtype))
        if present is None:
            return embedding
        return torch.where(present[:, None], embedding, self.null.to(embedding.dtype))


class PositionMap(nn.Module):
    """Where each position lies, as features (cf. Liu et al. 2018): coordinates from edge to edge, and their waves.

    Without it, a network of convolutions tells left from right by the padding at the margins alone.
    """

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(dims * (1 + 2 * POSITION_OCTAVES), width)

    def forward(self, shape: tuple[int, ...]) -> Tensor:
        """Features (1, width, *shape)."""
        places = _places(shape, self.weigh.weight.device)
        waves = with_octaves(places, POSITION_OCTAVES).to(self.weigh.weight.dtype)
        out: Tensor = self.weigh(waves).T.unflatten(1, shape)[None]
        return out


class VectorMap(nn.Module):
    """A condition vector drawn onto the grid, for conditions that name positions.

    Channel c at place p is sum_f W_cf(v) w_f(p): a bilinear form of the waves of the vector's numbers and the waves of
    the coordinates. cos(a x0) cos(a x) + sin(a x0) sin(a x) = cos(a (x - x0)), so that one linear layer can already
    mark the place that a number names. The null condition draws nothing.
    """

    def __init__(self, size: int, octaves: int, width: int, dims: int) -> None:
        super().__init__()
        self.octaves = octaves
        self.width = width
        # Zero at first: otherwise the drawing is noise that the network must learn to ignore.
        self.weigh = zeroed(nn.Linear(size * (1 + 2 * octaves), width * dims * (1 + 2 * octaves)))

    def forward(self, vector: Tensor, present: Tensor | None, shape: tuple[int, ...]) -> Tensor:
        """Map vector (B, K) in [0, 1] to (B, width, *shape); present (B,) bool, False = null."""
        weights = self.weigh(with_octaves(vector, self.octaves).to(self.weigh.weight.dtype))
        weights = weights.unflatten(1, (self.width, -1))  # (B, width, F)
        if present is not None:
            weights = weights * present[:, None, None]
        waves = with_octaves(_places(shape, vector.device), self.octaves).to(weights.dtype)  # (P, F)
        out: Tensor = (weights @ waves.T).unflatten(2, shape)
        return out


def _places(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The middles of all positions, (P, dims), edge to edge in [0, 1]."""
    axes = [(torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side for side in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1).T
