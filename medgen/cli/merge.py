"""`medgen merge`: join shards, or sets of one kind."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Annotated

import typer

from medgen.cli.options import Force, OutputSet, console_of


def command(
    context: typer.Context,
    sets: Annotated[list[str], typer.Argument(metavar="SET...", help="Sets of one kind; at most one may be -.")],
    output: OutputSet = "-",
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Put real and synthetic cases into one set.")
    ] = False,
    drop_duplicates: Annotated[
        bool,
        typer.Option("--drop-duplicates", help="Of cases with the same pixels in several sets, keep the first."),
    ] = False,
    force: Force = False,
) -> None:
    """Join shards or sets into one.

    The inputs are the shards of one command, or sets of one kind. Shards may come in any order; all must be there, and
    the result equals the unsharded one byte for byte. Each case stays marked as real, generated, or altered by a model;
    mixing these takes --allow-mixed. Samples of several runs have the same ids: to later ones, merge appends a hyphen
    and the first digits of their set's id in the provenance, which `info` shows.

    Examples:
      medgen merge part-0.h5 part-1.h5 part-2.h5 -o whole.h5
      medgen merge real.h5 samples.h5 --allow-mixed -o mixed.h5

    """
    from medgen.artifacts.merging import join
    from medgen.artifacts.sets import create_set, open_set

    console = console_of(context)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(open_set(name)) for name in sets]
        renamed: Counter[tuple[str, str]] = Counter()
        header, inputs, cases = join(readers, sets, mixed=allow_mixed, drop=drop_duplicates, renamed=renamed)
        writer = stack.enter_context(create_set(output, header, inputs=inputs, force=force))
        with console.progress(None, "cases") as advance:
            for case in cases:
                writer.write(case)
                advance()
        if dropped := sum(reader.tail.cases for reader in readers) - writer.digest.cases:
            console.say(f"{dropped} cases were dropped, which show the pixels of a case of another set")
        for (name, origin), count in renamed.items():
            console.say(f"{count} cases of {name} have the ids of other samples; their ids now end in -{origin}")
        console.report.update(cases=writer.digest.cases, slices=writer.digest.slices)
        console.say(f"{writer.digest.cases} cases, {writer.digest.slices} slices from {len(sets)} sets")
