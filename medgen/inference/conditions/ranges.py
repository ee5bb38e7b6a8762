"""Whether a request lies far outside of what the model was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from medgen.artifacts.stored import StoredSet
from medgen.inference.conditions.requests import Requests
from medgen.models.facts import DenoiserFacts, Range

SLACK = 0.1
"""Share of a range by which values may exceed it before it counts as far."""
TIMES = 2.0
"""How many times the greatest scale of guidance that was tried is far."""


NO_SPACING = (1.0, 1.0, 1.0)
"""Of pictures, whose pixels have no size."""


def far_outside(
    facts: DenoiserFacts, guidance: float, requests: Requests, like: Iterable[object] = ()
) -> Iterator[str]:
    """A warning for each condition, and for the guidance, that is far outside its range in training.

    `like` are the sets that masks were taken from.
    """
    if facts.guidance_range is not None and guidance > TIMES * facts.guidance_range[1]:
        low, high = facts.guidance_range
        yield f"guidance {guidance:g} is far above the scales that were tried in training, {low:g} to {high:g}"
    for stored in like:
        if requests.masks is not None and facts.spacing_range is not None and isinstance(stored, StoredSet):
            yield from _other_spacing(stored, facts.spacing_range)
    if requests.vectors is None:
        return
    for name, (low, high), values in zip(facts.vector_fields, facts.vector_range, requests.vectors.T, strict=False):
        slack = SLACK * (high - low) + 1e-6
        outside = (values < low - slack) | (values > high + slack)
        if outside.any():
            farthest = values[int(np.argmax(np.maximum(low - values, values - high)))]
            yield (
                f"{name} = {farthest:g}: in training it went from {low:.3g} to {high:.3g}, so the model was never "
                f"shown this ({int(outside.sum())} of {len(values)} samples)"
            )


def _other_spacing(stored: StoredSet, trained: tuple[Range, Range, Range]) -> Iterator[str]:
    """A warning where pixels of a set are far smaller or larger than those that the model was trained on."""
    sides = [row.spacing[2] for row in stored.cases if row.spacing != NO_SPACING]
    low, high = trained[2]
    if not sides or low == high == 1.0:
        return
    farthest = max(sides, key=lambda side: max(low / side, side / high))
    if not low / (1 + SLACK) <= farthest <= high * (1 + SLACK):
        yield (
            f"masks have pixels of {farthest:.3g} mm, and the images of the training had {low:.3g} to {high:.3g} mm: "
            "what they outline is drawn at another size"
        )
