"""The position of a head in a panoramic machine, and the picture built up from attenuations."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from medgen.phantoms.outlines import Outline, window_of
from medgen.phantoms.primitives import Floats, Window, enlarge

HEIGHT = 105.0  # mm that a picture shows from top to bottom, at any resolution
SIDE = 48.0  # mm from the midline to the middle of a half picture
COARSE = 1.0  # mm; distances to large shapes are computed on such a grid
EDGE = 0.25  # mm, the softness of anatomy's own edges

View = Literal["full", "half"]


@dataclass(frozen=True)
class Positioning:
    """From places on the picture to places in the jaws."""

    tilt: float  # radians
    shift: tuple[float, float]  # mm
    smile: float  # mm by which the back teeth stand above the front ones
    widen: float  # relative, as when the head stands too far back
    turn: float  # relative, one side wider than the other
    side: int  # of a half picture

    @staticmethod
    def draw(rng: np.random.Generator) -> Positioning:
        """A random positioning, by a mostly careful radiographer."""
        return Positioning(
            tilt=np.deg2rad(rng.normal(0.0, 1.0)),
            shift=(rng.normal(0.0, 1.5), rng.normal(-3.0, 1.5)),
            smile=rng.normal(7.5, 2.2),
            widen=rng.normal(1.0, 0.025),
            turn=rng.normal(0.0, 0.02),
            side=int(rng.choice((-1, 1))),
        )

    def jaw(self, across: Floats, down: Floats) -> tuple[Floats, Floats]:
        """Places on the picture, (1, W) and (H, 1) in mm from its middle, -> x and y (H, W) in the jaws."""
        u, v = across + np.float32(self.shift[0]), down + np.float32(self.shift[1])
        sine, cosine = np.float32(np.sin(self.tilt)), np.float32(np.cos(self.tilt))
        x = (u * cosine + v * sine) / np.float32(self.widen)
        x *= 1.0 + np.float32(self.turn) * np.clip(x / 100.0, -1.0, 1.0)
        y = v * cosine - u * sine
        y += np.float32(0.5 * self.smile) * (1.0 - np.cos(np.clip(np.abs(x) / 85.0, 0.0, 1.0) * np.float32(np.pi)))
        return x.astype(np.float32), y.astype(np.float32)


@dataclass
class Attenuations:
    """Attenuations (H, W) by cause; anatomy is painted into these."""

    across: Floats  # (1, W) mm from the middle
    down: Floats  # (H, 1)
    x: Floats  # (H, W) mm in the jaws
    y: Floats
    pixel: float
    soft: Floats = field(init=False)
    bone: Floats = field(init=False)
    hard: Floats = field(init=False)  # teeth
    metal: Floats = field(init=False)
    net: Floats = field(init=False)  # the structure of spongy bone

    def __post_init__(self) -> None:
        """Nothing but air."""
        self.soft, self.bone, self.hard, self.metal, self.net = (np.zeros_like(self.x) for _ in range(5))

    @staticmethod
    def empty(rows: int, view: View, positioning: Positioning) -> Attenuations:
        """A picture of `rows` rows, and twice as many columns, or as many for a half."""
        pixel = HEIGHT / rows
        columns = rows if view == "half" else 2 * rows
        across = (np.arange(columns, dtype=np.float32) - np.float32((columns - 1) / 2)) * np.float32(pixel)
        down = (np.arange(rows, dtype=np.float32) - np.float32((rows - 1) / 2)) * np.float32(pixel)
        if view == "half":
            across = across + np.float32(positioning.side * SIDE)
        x, y = positioning.jaw(across[None, :], down[:, None])
        return Attenuations(across[None, :], down[:, None], x, y, pixel)

    @property
    def softness(self) -> float:
        """Width of an edge in mm."""
        return max(EDGE, self.pixel)

    @property
    def total(self) -> Floats:
        """The sum of all attenuations (H, W)."""
        return self.soft + self.bone + self.hard + self.metal

    def window(self, x: tuple[float, float], y: tuple[float, float]) -> Window:
        """Pixels of a box in the jaws, in mm."""
        return window_of(self.x, self.y, x, y)

    def level(self, line: npt.NDArray[np.float64]) -> Floats:
        """The y (H, W) of a line (N, 2) given as a function of x."""
        places = np.arange(-110.0, 110.0, 0.1)
        values = np.interp(places, line[:, 0], line[:, 1]).astype(np.float32)
        index = np.clip((self.x + np.float32(110.0)) * np.float32(10.0), 0, len(values) - 1).astype(np.intp)
        return cast(Floats, values[index])

    @cached_property
    def _coarse(self) -> tuple[Floats, Floats]:
        rows, columns = (max(2, int(np.ceil(count * self.pixel / COARSE))) for count in self.x.shape)
        return enlarge(self.x, rows, columns), enlarge(self.y, rows, columns)

    def smooth_distance(self, outline: Outline, reach: float = 1e3) -> tuple[Window, Floats]:
        """Like `outline.distance`, but for large shapes: computed about a mm apart and interpolated."""
        if min(self.x.shape) * self.pixel / COARSE >= min(self.x.shape):
            return outline.distance(self.x, self.y, reach)
        x, y = self._coarse
        _, distance = outline.distance(x, y)
        whole = enlarge(distance, *self.x.shape)
        if reach >= 1e3:
            return (slice(0, whole.shape[0]), slice(0, whole.shape[1])), whole
        low, high = outline.points.min(axis=0) - reach, outline.points.max(axis=0) + reach
        window = self.window((low[0], high[0]), (low[1], high[1]))
        return window, whole[window]
