"""`medgen evaluate`: sets, or folders of images -> JSON."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import Device, Force, check_picture, console_of, listed
from medgen.evaluation.options import METRICS_SAID, EvaluateOptions

if TYPE_CHECKING:
    from medgen.cli.console import Console
    from medgen.evaluation.comparison import Pair
    from medgen.evaluation.results import Evaluated


COMPARED = "What it is compared with"


@takes(EvaluateOptions)
def command(
    context: typer.Context,
    given: Given,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SET]...",
            help="What to measure: sets, or files and folders of DICOM, NIfTI, PNG. Several are compared side by side.",
        ),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(
            "--names",
            metavar="A,B,...",
            help="What to call the sets in reports.  [default: set 1, set 2, ...]",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="Measure only this split, such as test.  [default: all]"),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="SET",
            help="Real images, or the images that the set should equal.",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    reference_split: Annotated[
        str | None,
        typer.Option(
            "--reference-split",
            metavar="NAME",
            help="Only this split of --reference, such as test.  [default: all]",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    synthetic_reference: Annotated[
        bool,
        typer.Option("--synthetic-reference", help="Let --reference hold synthetic cases.", rich_help_panel=COMPARED),
    ] = False,
    thick: Annotated[
        Path | None,
        typer.Option(
            "--thick",
            metavar="SET",
            help="The thick slices that the set was interpolated from.",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    vae: Annotated[
        Path | None,
        typer.Option(
            "--vae",
            metavar="FILE",
            help="Compare the set with its reconstruction by this VAE.",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(
            "--training",
            metavar="SET",
            help="The images that the generator was trained on, to find copies of them.",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    training_split: Annotated[
        str | None,
        typer.Option(
            "--training-split",
            metavar="NAME",
            help="Only this split of --training.  [default: train, or all]",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--ratings",
            metavar="FILE.csv",
            help="Experts' ratings of the set, from rate.",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    pairs_png: Annotated[
        Path | None,
        typer.Option("--pairs", metavar="FILE.png", help="Draw the samples closest to training images next to these."),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", "--json", metavar="FILE.json", help="Where the JSON goes; - is standard output."
        ),
    ] = "-",
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Measure images: fidelity, copies, conditions, masks, utility, reconstruction and more.

    {metrics}

    Files are read as preprocess reads them, at the size and window of the sets they are compared with.

    Examples:
      medgen evaluate samples.h5 --reference images.h5 --reference-split test -o figures.json
      medgen evaluate a.h5 b.h5 --names old,new --reference real/ --report page.html -o figures.json
      medgen evaluate samples.h5 --ratings ratings.csv --metrics ratings

    """
    options = given.resolve(EvaluateOptions)
    import json

    from medgen.artifacts.outputs.whole import atomic_file, check_output
    from medgen.errors import SomeItemsFailed, UsageError
    from medgen.evaluation.evaluate import Task, evaluation
    from medgen.inference.anomaly.comparable_maps import ComparableMaps
    from medgen.nets.compute import resolve_device

    console = console_of(context)
    measured = options.metrics is None or "memorization" in options.metrics
    if pairs_png is not None and not (measured and training and reference):
        raise UsageError("--pairs shows what memorization found: give --training and --reference")
    if pairs_png is not None:
        check_picture(pairs_png, "--pairs")
    if output != "-":
        check_output(Path(output), force=force)
    for path in (console.page, pairs_png):
        if path is not None:
            check_output(path, force=force)
    task = Task(
        sources or ["-"],
        listed(names),
        split,
        reference=reference,
        reference_split=reference_split,
        synthetic_reference=synthetic_reference,
        thick=thick,
        training=training,
        training_split=training_split,
        vae=vae,
        ratings=answers,
    )
    with evaluation(task, options, console, resolve_device(device), ComparableMaps.like) as found:
        _print(console, found.results, found.pairs)
        if console.page is not None:
            from medgen.report.evaluation_page import report

            with atomic_file(console.page, force=force) as temporary:
                temporary.write_text(report(found), encoding="utf-8")
        if pairs_png is not None:
            from medgen.report.pairs_sheet import pairs_sheet

            with atomic_file(pairs_png, force=force) as temporary:
                temporary.write_bytes(pairs_sheet(found.results))
    text = json.dumps(found.numbers, indent=2, allow_nan=False) + "\n"
    if output == "-":
        typer.echo(text, nl=False)
    else:
        with atomic_file(Path(output), force=force) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if left_out := console.report.get("left_out"):
        raise SomeItemsFailed(f"{len(left_out)} items were left out, each named above; the rest was measured")


command.__doc__ = inspect.cleandoc(command.__doc__ or "").replace("{metrics}", METRICS_SAID)


def _print(console: Console, results: Sequence[Evaluated], pairs: Sequence[Pair]) -> None:
    """Print tables and warnings, those of several sets side by side."""
    from medgen.evaluation.comparison import basis, table_of
    from medgen.report.side_by_side import join_sections, warnings_of

    for metric in dict.fromkeys(section.name for one in results for section in one.sections):
        found = [(one.name, section) for one in results for section in one.sections if section.name == metric]
        for joined in join_sections(found):
            table = joined.flat()
            console.table(table.title, list(table.columns), table.rows)
        for warning in warnings_of(found):
            console.warn(warning)
    for pair in pairs:
        if pair.tests:
            table = table_of(pair)
            console.table(table.title, list(table.columns), table.rows)
        console.say(basis(pair))
