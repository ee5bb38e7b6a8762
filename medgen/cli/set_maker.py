"""What commands that make a set share: the output, its shard, the cases left out, and the final report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from medgen.cli.console import Console
from medgen.cli.options import check_destination, console_of, parse_shard
from medgen.errors import DataError, SomeItemsFailed
from medgen.reporting import Advance

if TYPE_CHECKING:
    import torch
    import typer

    from medgen.artifacts.provenance import Identified
    from medgen.artifacts.schema import Case, ContentDigest, SetHeader
    from medgen.models.trained import Trained
    from medgen.nets.options import Precision

Item = TypeVar("Item")


def no_case(done: str, *, chosen: bool) -> str:
    """The message of `SetMaker.write` where no case was `done`, of all cases or those `chosen` by split."""
    rest = "the others are not in this split" if chosen else "the set has no other"
    return f"no case was {done}: {{left_out}} left out, {rest}"


@dataclass(frozen=True)
class SetMaker:
    """A command that makes the set `output`, or shard `part` of `parts` of it."""

    console: Console
    output: str
    force: bool
    part: int
    parts: int
    keep_going: bool
    left_out: list[str] = field(default_factory=list)
    """The ids of cases left out."""

    @classmethod
    def of(
        cls, context: typer.Context, output: str, *, force: bool, shard: str | None, keep_going: bool = False
    ) -> SetMaker:
        """Make one from a command's options; raises at once for an output that cannot be made."""
        part, parts = parse_shard(shard)
        check_destination(output, force=force)
        return cls(console_of(context), output, force, part, parts, keep_going)

    def precision(self, asked: Precision, device: torch.device) -> Precision:
        """The precision to load networks with. All shards of a set need the same, so none measures its own."""
        if asked != "auto" or self.parts == 1 or device.type != "cpu":
            return asked
        self.console.say("a shard runs in float32, so that all can be joined; --precision, given to all, sets another")
        return "float32"

    def settled(self, *networks: Trained[Any, Any]) -> str:
        """The precisions that networks run at, for the provenance; why, `--verbose` tells."""
        from medgen.models.trained import precisions
        from medgen.nets.kernels import DEFAULT

        for network in networks:
            kernels = f"; with {network.kernels}" if network.kernels != DEFAULT else ""
            self.console.detail(f"{network.model.path} runs in {network.precision}{kernels}")
        return precisions(networks)

    def take(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items that belong to this shard, of all that the job is about: merging deals them back in turn."""
        from medgen.artifacts.sharding import take_shard

        return take_shard(items, self.part, self.parts)

    def leave_out(self, case: Case, error: DataError) -> None:
        """Continue without a case; without --keep-going, raise its `error`."""
        if not self.keep_going:
            raise error
        self.left_out.append(case.id)
        self.console.warn(f"left out: {error}")

    def write(
        self,
        cases: Iterable[Case],
        header: SetHeader,
        inputs: Sequence[Identified],
        advance: Advance | None = None,
        *,
        nothing: str = "",
    ) -> ContentDigest:
        """Write `cases`, and report the slices of each to `advance`.

        `nothing` says what is wrong if there was none (`{left_out}`: how many were left out); a shard may be empty.
        """
        from medgen.artifacts.sets import create_set
        from medgen.artifacts.sharding import mark_shard

        marked = mark_shard(header, self.part, self.parts)
        with create_set(self.output, marked, inputs=inputs, force=self.force) as writer:
            for case in cases:
                writer.write(case)
                if advance is not None:
                    advance(len(case))
                del case  # do not keep it while the next is made
            if nothing and writer.digest.cases == 0 and self.parts == 1:
                raise DataError(nothing.format(left_out=len(self.left_out)))
        return writer.digest

    def finish(self, **facts: object) -> None:
        """Report `facts` and what was left out; SomeItemsFailed if anything was."""
        self.console.report.update(**facts, left_out=self.left_out)
        if self.left_out:
            raise SomeItemsFailed(f"{len(self.left_out)} cases were left out; the rest is in the output")
