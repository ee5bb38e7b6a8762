"""Which physical values are stored, in which integer type, and which of them the network sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from medgen.artifacts.schema import Intensity
from medgen.config import did_you_mean
from medgen.errors import ConfigError
from medgen.imaging.cases.options import WINDOWS
from medgen.imaging.reading.rescale import Physical
from medgen.imaging.reading.slices import BYTES, Kind

# HU, as (low, high)
PERCENTILES = (0.5, 99.5)
RELATIVE_STEPS = 8192  # stored steps between the two percentiles; int16 reaches four times beyond
_SAMPLE = 1 << 22  # values that the percentiles are taken from


@dataclass(frozen=True)
class Encoding:
    """How source values become stored values, for a whole set."""

    intensity: Intensity
    dtype: Literal["uint8", "int16"]
    percentiles: tuple[float, float] | None = None  # each case is first scaled by these of its own values

    @property
    def per_case(self) -> bool:
        """Whether the scale is only known once a case is complete."""
        return self.percentiles is not None

    @property
    def fill(self) -> float:
        """Physical value of padding: the dark end; NaN if that is known only once the case is complete."""
        return float("nan") if self.per_case else min(0.0, self.intensity.window[0]) if self.unsigned else self.dark

    @property
    def unsigned(self) -> bool:
        """Whether stored values are bytes."""
        return self.dtype == "uint8"

    @property
    def dark(self) -> float:
        """Air for HU, else the lower end of the window."""
        return -1000.0 if self.intensity.unit == "HU" else self.intensity.window[0]

    def encode(self, values: Physical) -> npt.NDArray[np.generic]:
        """Physical values of a whole case (or any part, unless `per_case`) -> stored integers, rounded and clipped."""
        rescaled = (self.intensity.scale, self.intensity.offset) != (1.0, 0.0)
        if values.dtype == self.dtype and not rescaled and not self.per_case:
            return values
        scaled: npt.NDArray[np.float32] = values.astype(np.float32, copy=False)
        if self.percentiles is not None:
            low, high = _limits(scaled, self.percentiles)
            scaled = np.nan_to_num((scaled - low) * np.float32(1.0 / (high - low)), nan=0.0)
        if rescaled:
            scaled = (scaled - np.float32(self.intensity.offset)) / np.float32(self.intensity.scale)
        limits = np.iinfo(self.dtype)
        stored = np.rint(scaled)
        np.clip(stored, limits.min, limits.max, out=stored)
        return stored.astype(self.dtype)


def is_relative(window: str) -> bool:
    """Whether each case is scaled by percentiles of its own values, whatever they are."""
    return window.rstrip().endswith("%")


def plan_encoding(kind: Kind, window: str) -> Encoding:
    """The encoding of a set whose slices are of this kind.

    CT: int16 HU; bytes: uint8; anything else by per-case percentiles - unless `window` gives LOW,HIGH. A window in
    percent names other percentiles, for images of every kind.
    """
    relative = Intensity(1.0 / RELATIVE_STEPS, 0.0, "relative", (0.0, 1.0))
    if is_relative(window):
        return Encoding(relative, "int16", parse_percentiles(window))
    limits = parse_window(window)
    if kind == "hu":
        return Encoding(Intensity(1.0, 0.0, "HU", limits or WINDOWS["lung"]), "int16")
    if window in WINDOWS:
        raise ConfigError(f"window '{window}': given in HU, but the images are not CT; use auto or LOW,HIGH")
    if kind == "byte":
        return Encoding(Intensity(1.0, 0.0, BYTES, limits or (0.0, 255.0)), "uint8")
    if limits is None:
        return Encoding(relative, "int16", PERCENTILES)
    width = limits[1] - limits[0]
    if width >= 256 and max(map(abs, limits)) <= 32767:
        return Encoding(Intensity(1.0, 0.0, "value", limits), "int16")  # integers stay what they are
    return Encoding(Intensity(width / 16384, (limits[0] + limits[1]) / 2, "value", limits), "int16")


def parse_window(text: str) -> tuple[float, float] | None:
    """A name, or `LOW,HIGH` -> (low, high); None for `auto`. ConfigError otherwise."""
    if text == "auto":
        return None
    if text in WINDOWS:
        return WINDOWS[text]
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        names = ["auto", *WINDOWS]
        hint = did_you_mean(text, names, f"expected LOW,HIGH or one of {', '.join(names)}")
        raise ConfigError(f"no window '{text}'{hint}") from None
    if not low < high or not np.isfinite([low, high]).all():
        raise ConfigError(f"window '{text}': LOW must be below HIGH")
    return low, high


def parse_percentiles(text: str) -> tuple[float, float]:
    """`1%,95%` -> (1, 95); ConfigError otherwise."""
    try:
        low, high = (float(part.strip().removesuffix("%")) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"window '{text}': expected two percentiles such as 1%,95%") from None
    if not 0 <= low < high <= 100:
        raise ConfigError(f"window '{text}': percentiles must lie in 0 to 100, the lower one first")
    return low, high


def _limits(values: npt.NDArray[np.float32], percentiles: tuple[float, float]) -> tuple[np.float32, np.float32]:
    flat = values.reshape(-1)[:: max(1, values.size // _SAMPLE)]
    flat = flat[np.isfinite(flat)]
    if not len(flat):
        return np.float32(0.0), np.float32(1.0)
    low, high = np.percentile(flat, percentiles)
    if high <= low:  # nearly constant, such as a blank image with one bright dot
        low, high = float(flat.min()), float(flat.max())
    return np.float32(low), np.float32(high if high > low else low + 1.0)
