"""A simulated expert: grades images by a rule that only this file knows, and tells afterwards how good they truly are.

    python expert.py rate samples.h5 --ratings ratings.csv --rater anna
    python expert.py truth samples.h5 aligned.h5 -o truth.json

The rule: how clearly a nodule stands out where it was asked for. 0 = there is none, 1 = as in a real image. The expert
sees it with noise, and is strict by a bias of her own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medgen.artifacts.sets import open_set
from medgen.imaging.labels.ratings import Rating, RatingsFile, set_name

USUAL_CONTRAST = 0.7
"""Of a bright real nodule to what is around it, in shares of the window."""
NOISE, BIAS = 0.5, -0.4
"""Of a grade."""
Values = npt.NDArray[np.float64]


def quality(image: Values, asked: dict[str, float]) -> float:
    """How clearly the nodule asked for stands out in an image (H, W) in [0, 1]: from 0 to 1."""
    height, width = image.shape
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot((columns + 0.5) / width - asked["x"], (rows + 0.5) / height - asked["y"]) / (
        max(asked["size"], 0.1) / 2
    )
    inside, around = image[distance <= 0.8], image[(distance > 1.3) & (distance <= 2.2)]
    return float(np.clip((inside.mean() - np.median(around)) / USUAL_CONTRAST, 0, 1))


def qualities(path: Path) -> tuple[list[str], Values, str]:
    """Ids of the cases of a set, how good each is, and what ratings call the set; without those asked for no nodule."""
    ids, found = [], []
    with open_set(path, random_access=True) as stored:
        header = stored.header
        for case in stored:
            for image, vector in zip(header.intensity.normalized(case["image"])[:, 0], case["vector"], strict=True):
                asked = dict(zip(header.vector_fields, map(float, vector), strict=True))
                if asked["has_nodule"]:
                    ids.append(case.id)
                    found.append(quality((image + 1.0) / 2, asked))
        name = set_name(stored.tail.digest)
    return ids, np.array(found), name


def rate(path: Path, ratings: Path, rater: str, seed: int) -> None:
    """Add a grade from 1 to 5 for every case of a set to a file of ratings."""
    ids, values, name = qualities(path)
    random = np.random.default_rng([seed, *rater.encode()])
    grades = np.clip(np.rint(1 + 4 * values + BIAS + random.normal(0, NOISE, len(values))), 1, 5)
    with RatingsFile(ratings) as file:
        for case, grade in zip(ids, grades, strict=True):
            file.add(Rating(name, rater, case, "", "realism", float(grade)))


def truth(path: Path) -> dict[str, float | list[float]]:
    """Mean quality of a set, with the 95 % interval of the bootstrap, and the selector's belief if the set has it."""
    _, values, _ = qualities(path)
    random = np.random.default_rng(0)
    means = values[random.integers(0, len(values), (2000, len(values)))].mean(axis=1)
    interval = [round(float(one), 3) for one in np.quantile(means, (0.025, 0.975))]
    told: dict[str, float | list[float]] = {"quality": round(float(values.mean()), 3), "interval": interval}
    with open_set(path, random_access=True) as stored:
        if stored.has("quality"):
            told["belief"] = round(float(stored.column("quality").mean()), 3)
    return told | {"images": len(values)}


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("rate", "truth"))
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--ratings", type=Path)
    parser.add_argument("--rater", default="anna")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    if given.task == "rate":
        for path in given.sets:
            rate(path, given.ratings, given.rater, given.seed)
    else:
        told = {path.stem: truth(path) for path in given.sets}
        given.output.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
