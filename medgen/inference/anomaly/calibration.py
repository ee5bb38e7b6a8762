"""How maps of normal images vary, pixel by pixel, and how far other maps deviate from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medgen.errors import DataError
from medgen.inference.anomaly.options import CalibrationOptions

Maps = npt.NDArray[np.float32]
Plane = npt.NDArray[np.float64]
Place = tuple[str, int]
"""A case, and the number of a slice in it."""


@dataclass(frozen=True)
class Calibration:
    """Sums over normal maps (4, H, W). A pixel has few samples, so estimates also use its neighbours and the plane."""

    options: CalibrationOptions
    count: int
    total: Plane
    squares: Plane
    members: frozenset[Place] = frozenset()
    """The normal slices: those of a case are compared with the others, as those of any held-out case are."""

    @cached_property
    def estimates(self) -> tuple[Plane, Plane]:
        """Mean and standard deviation (4, H, W), smoothed in the plane and shrunk towards the mean of all pixels."""
        if self.count < 2:
            raise DataError(f"{self.count} normal slices are too few to show how normal maps vary; calibrate by more")
        mean = self.total / self.count
        variance = np.maximum(self.squares / self.count - mean**2, 0.0) * self.count / (self.count - 1)
        sigma, share = self.options.smoothing, self.count / (self.count + self.options.shrinkage)

        def steadied(estimate: Plane) -> Plane:
            smooth = ndimage.gaussian_filter(estimate, (0.0, sigma, sigma)) if sigma else estimate
            steady: Plane = share * smooth + (1 - share) * estimate.mean(axis=(1, 2), keepdims=True)
            return steady

        # Where normal maps never change at all, as outside of the foreground, nothing may divide by 0.
        least = 1e-6 * variance.mean(axis=(1, 2), keepdims=True) + 1e-12
        return steadied(mean), np.sqrt(steadied(variance) + least)

    def deviations(self, maps: Maps, places: Sequence[Place] = ()) -> Maps:
        """Maps (D, 4, H, W) of slices of one case in deviations from normal, leaving out those that were summed up.

        DataError names the case whose shape does not fit.
        """
        if maps.shape[1:] != self.total.shape:
            told, wanted = (" x ".join(map(str, shape)) for shape in (maps.shape[2:], self.total.shape[1:]))
            case = places[0][0] if places else ""
            raise DataError(f"case {case}: its maps are {told}, those to calibrate by are {wanted}")
        own = [place in self.members for place in places]
        mean, std = (self.without(maps[own]) if any(own) else self).estimates
        return ((maps - mean) / std).astype(np.float32)

    def without(self, maps: Maps) -> Calibration:
        """The sums over all normal maps but these (D, 4, H, W)."""
        values = maps.astype(np.float64)
        return replace(
            self,
            count=self.count - len(values),
            total=self.total - values.sum(axis=0),
            squares=self.squares - np.square(values).sum(axis=0),
        )


def calibrate(normal: Iterable[tuple[Sequence[Place], Maps]], options: CalibrationOptions) -> Calibration:
    """Sum up normal maps (D, 4, H, W) of slices at these places; DataError for fewer than two slices."""
    members: set[Place] = set()
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for places, maps in normal:
        values = maps.astype(np.float64)
        members.update(places)
        count += len(values)
        total = total + values.sum(axis=0)
        squares = squares + np.square(values).sum(axis=0)
    calibration = Calibration(options, count, total, squares, frozenset(members))
    calibration.estimates  # noqa: B018 (raises if there are too few)
    return calibration
