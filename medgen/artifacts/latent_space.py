"""How latents are scaled and shifted before a network sees them: one formula for sets, training and samplers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from medgen.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Positive = Annotated[float, msgspec.Meta(gt=0)]
Scale = Positive | tuple[Positive, ...]
"""One number for each channel; one for all of them in files of version 0.1.0."""
Shift = float | tuple[float, ...]

LatentsT = TypeVar("LatentsT", "npt.NDArray[Any]", "Tensor")


class LatentSpace(NamedTuple):
    """What networks see of latents (B, c, *S): (latents - shift) * scale, channel by channel."""

    scale: Scale = 1.0
    shift: Shift = 0.0

    def seen(self, latents: LatentsT) -> LatentsT:
        """Latents (B, c, *S) as the VAE gives them -> as a network sees them."""
        seen: LatentsT = (latents - _by_channel(self.shift, latents)) * _by_channel(self.scale, latents)
        return seen

    def unscaled(self, seen: LatentsT) -> LatentsT:
        """The inverse of `seen`."""
        latents: LatentsT = seen / _by_channel(self.scale, seen) + _by_channel(self.shift, seen)
        return latents


def _by_channel(values: float | tuple[float, ...], latents: Any) -> Any:
    """A number as it is; values per channel as (c, 1, ...), an array or tensor of the type of `latents` (B, c, *S)."""
    if isinstance(values, int | float):
        return values
    if len(values) != latents.shape[1]:
        raise DataError(
            f"latents of {latents.shape[1]} channels do not fit a scale and shift of {len(values)}; "
            "extract them again with the VAE of the model"
        )
    shape = (-1, *[1] * (latents.ndim - 2))
    if isinstance(latents, np.ndarray):
        return np.asarray(values, latents.dtype).reshape(shape)
    return latents.new_tensor(values).view(shape)
