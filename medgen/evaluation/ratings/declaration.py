"""What the agreement of raters needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medgen.evaluation.declaration import Metric, Need

if TYPE_CHECKING:
    from medgen.evaluation.inputs import Inputs


def _about_the_set(inputs: Inputs) -> bool:
    from medgen.imaging.labels.ratings import set_name

    values = inputs.ratings.values if inputs.ratings is not None else {}
    return set_name(inputs.stored.tail.digest) in {key[0] for key in values}


RATINGS = Metric(
    "ratings",
    "Ratings measures how far the raters of --ratings agree with each other about the set, and how well they tell real "
    "images from synthetic ones (give the set of the real images that were mixed in as --reference).",
    (
        Need(lambda inputs: inputs.ratings is not None, "needs ratings: give --ratings FILE.csv, from medgen rate"),
        Need(_about_the_set, "needs ratings that are about the set; those of the file are about others"),
    ),
    ("ratings", "reference"),
)
