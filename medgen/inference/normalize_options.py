"""Options of `medgen normalize`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from medgen.config import SEED, option, plain
from medgen.diffusion.options import SAMPLING, TIMES, SamplingOptions, Times
from medgen.models.options import COMPUTING, EMA, PRECISION
from medgen.nets.options import Precision

if TYPE_CHECKING:
    from medgen.artifacts.schema import Case


class NormalizeOptions(SamplingOptions, frozen=True):
    """How `normalize` works. The batch size does not change the result beyond rounding."""

    method: Annotated[
        Literal["diffusion", "flow", "both", "vae"],
        option("Head that denoises; both: the mean of their latents; vae: encode and decode only (a baseline)."),
    ] = "both"
    noise_level: Annotated[
        float, option("Share of noise to denoise from.", metavar="F", group=SAMPLING, gt=0, lt=1)
    ] = 0.4
    """sigma / (alpha + sigma): gives both heads the same signal-to-noise ratio."""
    times: Annotated[Times, TIMES] = "trailing"
    """As in all sampling; from a noise level this low the path is nearly straight in t itself."""
    steps: Annotated[int, option("Steps of the diffusion head.", group=SAMPLING, ge=1)] = 10
    flow_steps: Annotated[int, option("Steps of the flow head, whose path is straighter.", group=SAMPLING, ge=1)] = 4
    draws: Annotated[int, option("Draws of noise whose results are averaged, as latents.", group=SAMPLING, ge=1)] = 1
    splits: Annotated[
        tuple[Literal["train", "val", "test"], ...],
        option("Only the cases of these splits (of train, val, test).", flag="--split", metavar="A,B", default="all"),
    ] = ()
    ema: Annotated[bool, EMA] = True
    precision: Annotated[Precision, PRECISION] = "auto"
    batch_size: Annotated[int, option("Slices at once.", group=COMPUTING, ge=1)] = 16
    seed: Annotated[int, SEED] = 0

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that the method uses."""
        return {"diffusion": ("diffusion",), "flow": ("flow",), "both": ("diffusion", "flow"), "vae": ()}[self.method]

    @property
    def unused(self) -> set[str]:
        """Names of the options that the method does not read."""
        unused: set[str] = set()
        if "diffusion" not in self.heads:
            unused |= {"steps"}
        if "flow" not in self.heads:
            unused |= {"flow_steps"}
        if not self.heads:
            unused |= {"noise_level", "sampler", "times", "eta", "draws", "ema"}
        return unused

    def settings(self) -> dict[str, Any]:
        """What decides the result, for the provenance."""
        unused = {"batch_size", "seed", *self.unused, *(() if self.splits else ("splits",))}
        return {name: value for name, value in plain(self).items() if name not in unused}

    def chosen(self, cases: Iterable[Case]) -> Iterator[Case]:
        """The cases of the splits asked for."""
        return (case for case in cases if not self.splits or case.split in self.splits)

    def told(self) -> str:
        """The method and its steps, for people."""
        ways = (f"{head}, {SamplingOptions.told(self.of(head))}" for head in self.heads)
        return " and ".join(ways) or "the VAE alone"

    def of(self, head: str) -> SamplingOptions:
        """How one head denoises."""
        return msgspec.structs.replace(self, steps=self.flow_steps) if head == "flow" else self
