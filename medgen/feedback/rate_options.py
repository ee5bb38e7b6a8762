"""Options of `medgen rate`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from medgen.config import SEED, Options, option
from medgen.errors import UsageError
from medgen.imaging.labels.ratings import REAL


class RateOptions(Options, frozen=True):
    """Who rates, what is asked of each image, and in which order."""

    rater: Annotated[str, option("Who rates; each rater sees the images in an order of their own.", metavar="NAME")] = (
        ""
    )
    aspects: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_ -]*$")], ...],
        option("What is rated from 1 to 5, such as realism,anatomy,agreement.", metavar="NAME,..."),
    ] = ("overall",)
    pairs: Annotated[bool, option("Show two images and ask which is better.")] = False
    comparisons: Annotated[int, option("With --pairs: how often each image is compared.", ge=1, le=100)] = 2
    real_share: Annotated[
        float, option("With --real: share of real images among those shown.", metavar="F", gt=0, lt=1)
    ] = 0.25
    port: Annotated[int, option("Port of the page on this machine; 0 = any free one.", ge=0, le=65535)] = 8471
    seed: Annotated[int, SEED] = 0

    def __post_init__(self) -> None:
        if not self.rater.isprintable() or self.rater != self.rater.strip():
            raise UsageError("--rater: a name is one line of printable characters, without spaces around it")
        if not self.aspects or len(set(self.aspects)) < len(self.aspects):
            raise UsageError("--aspects: name at least one, each once")
        if REAL in self.aspects:
            raise UsageError(f"--aspects: '{REAL}' is asked by --real SET; leave it out")
