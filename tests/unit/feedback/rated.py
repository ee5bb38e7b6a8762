"""Sets of images whose quality follows a rule that only the simulated raters know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import GENERATED, NO_SPLIT, Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.imaging.labels.ratings import Rating, RatingsFile, set_name

SIDE = 32
Values = npt.NDArray[np.float64]


def write_samples(
    path: Path, count: int, *, side: int = SIDE, seed: int = 0, window: tuple[float, float] = (-1000.0, 400.0)
) -> Values:
    """A set of discs, sharp to blurred and clean to noisy; their hidden quality (count,), mean 0 and spread 1.

    The vector says where the disc was asked for; half of what counts is whether it is there.
    """
    random = np.random.default_rng(seed)
    header = SetHeader(
        kind="image",
        provenance=derive("generate", {"count": count}, seed=seed, sources="source-test"),
        intensity=Intensity(window=window),
        vector_fields=("x",),
    )
    blur, noise = random.uniform(0.3, 3.0, count), random.uniform(5, 200, count)
    asked, there = random.random(count), random.random(count)
    quality = -blur / 3 - noise / 200 - 2 * np.abs(asked - there)
    rows, columns = np.mgrid[:side, :side] / side
    with create_set(path, header) as writer:
        for index in range(count):
            disc = (columns - 0.25 - there[index] / 2) ** 2 + (rows - 0.5) ** 2 < 0.03
            image = ndimage.gaussian_filter(-900 + 1000.0 * disc, blur[index]) + random.normal(
                0, noise[index], disc.shape
            )
            arrays = {
                "image": image[None, None].astype(np.int16),
                "vector": np.array([[asked[index]]], np.float32),
            }
            writer.write(Case(f"sample-{index:06d}", arrays, NO_SPLIT, synthetic=GENERATED))
    return np.asarray((quality - quality.mean()) / quality.std())


def rate(
    path: Path, ratings: Path, quality: Values, rater: str, cases: range, *, noise: float = 0.5, bias: float = 0.0,
    random_answers: bool = False, aspect: str = "overall", seed: int = 0,
) -> None:  # fmt: skip
    """Ratings by a rater who sees the quality with noise, and is mild by `bias`; or one who throws dice."""
    random = np.random.default_rng([seed, *rater.encode()])
    with open_set(path, random_access=True) as stored, RatingsFile(ratings) as file:
        for case in cases:
            value = quality[case] + random.normal(0, noise) + bias
            grade = float(np.clip(np.rint(3 + 1.2 * value), 1, 5))
            if random_answers:
                grade = float(random.integers(1, 6))
            name = set_name(stored.tail.digest)
            file.add(Rating(name, rater, stored.cases[case].id, "", aspect, grade))
