"""Options of `medgen train-selector`."""

from __future__ import annotations

from typing import Annotated

from medgen.config import SEED, Options, option


class SelectorOptions(Options, frozen=True):
    """What a selector learns from."""

    aspects: (
        Annotated[
            tuple[str, ...],
            option("Learn only these aspects.", metavar="NAME,...", default="all that were rated"),
        ]
        | None
    ) = None
    seed: Annotated[int, SEED] = 0
