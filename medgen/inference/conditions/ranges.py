"""Whether what is asked of a model lies far outside of what it was trained on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from medgen.inference.conditions.requests import Requests
from medgen.models.facts import DenoiserFacts

SLACK = 0.1
"""Share of a range by which values may exceed it before it counts as far."""
TIMES = 2.0
"""How many times the greatest scale of guidance that was tried is far."""


def far_outside(facts: DenoiserFacts, guidance: float, requests: Requests) -> Iterator[str]:
    """A warning for each condition and for the guidance, where they are far from those of the training."""
    if facts.guidance_range is not None and guidance > TIMES * facts.guidance_range[1]:
        low, high = facts.guidance_range
        yield f"guidance {guidance:g} is far above the scales that were tried in training, {low:g} to {high:g}"
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
