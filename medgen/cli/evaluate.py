"""`medgen evaluate`: sets, or folders of images -> JSON."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import Device, Force, console_of, listed
from medgen.evaluation.options import METRICS_SAID, EvaluateOptions

if TYPE_CHECKING:
    from medgen.cli.console import Console
    from medgen.evaluation.comparison import Pair
    from medgen.evaluation.evaluation import Evaluated


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
        typer.Option(
            "--split", metavar="NAME", help="Only that split of what is measured, such as test.  [default: all]"
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="SET",
            help="Real images, or those that the set should equal.",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    reference_split: Annotated[
        str | None,
        typer.Option(
            "--reference-split",
            metavar="NAME",
            help="Only that split of --reference, such as test.  [default: all]",
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
            help="The images that were learned from, to find copies of them.",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    training_split: Annotated[
        str | None,
        typer.Option(
            "--training-split",
            metavar="NAME",
            help="Only that split of --training.  [default: train, or all]",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--ratings",
            metavar="FILE.csv",
            help="What experts said of the set, from rate.",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    pairs_png: Annotated[
        Path | None,
        typer.Option("--pairs", metavar="FILE.png", help="Draw the samples closest to training images beside these."),
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

    Files are read as preprocess reads them, to the size and window of the sets beside them.

    Examples:
      medgen evaluate samples.h5 --reference images.h5 --reference-split test -o figures.json
      medgen evaluate a.h5 b.h5 --names old,new --reference real/ --report page.html -o figures.json
      medgen evaluate samples.h5 --ratings ratings.csv --metrics ratings

    """
    options = given.resolve(EvaluateOptions)
    import contextlib
    import json

    from medgen.artifacts.outputs.whole import atomic_file, check_output
    from medgen.errors import SomeItemsFailed
    from medgen.evaluation.comparability import check_comparable
    from medgen.evaluation.compared import TRAINING, ImagesToOpen, check_real, open_all, wanted
    from medgen.evaluation.comparison import as_json as comparison_json
    from medgen.evaluation.comparison import compare
    from medgen.evaluation.evaluation import Material, as_json, evaluate, provenance_of
    from medgen.evaluation.features.extractors import open_extractor
    from medgen.evaluation.features.features import FeatureBank
    from medgen.evaluation.inputs import Inputs, Reconstructor
    from medgen.evaluation.pairing import MEASURED, REFERENCE, THICK, Side, pairing_of
    from medgen.imaging.labels.ratings import read_ratings
    from medgen.inference.anomaly.comparable_maps import ComparableMaps
    from medgen.nets.compute import resolve_device

    console = console_of(context)
    if output != "-":
        check_output(Path(output), force=force)
    for path in (console.page, pairs_png):
        if path is not None:
            check_output(path, force=force)
    target = resolve_device(device)
    rated = None if answers is None else read_ratings(answers)
    with contextlib.ExitStack() as stack:
        reconstructor, autoencoder = None, None
        if vae is not None:
            from medgen.models.trained import FrozenVAE

            autoencoder = FrozenVAE.load(vae, target, "float32")  # figures must not depend on the processor
            reconstructor = Reconstructor(autoencoder.reconstruct, autoencoder.model.digest)
        opened = open_all(
            stack,
            [
                *(ImagesToOpen(MEASURED, source, split) for source in sources or ["-"]),
                *wanted(THICK, thick, None),
                *wanted(TRAINING, training, training_split),
                *wanted(REFERENCE, reference, reference_split),
            ],
            console,
            options.reading,
            autoencoder.facts.intensity if autoencoder else None,
            listed(names),
        )
        measured = [one for one in opened if one.part == MEASURED]
        if len(measured) > 1:
            pairs_of = zip(measured, sources or (), strict=True)
            console.say("; ".join(f"{one.name} is {source}" for one, source in pairs_of))
        others = {one.part: one for one in opened if one.part != MEASURED}
        if REFERENCE in others and not synthetic_reference:
            check_real(others[REFERENCE])
        for other in (others[part] for part in (REFERENCE, TRAINING) if part in others):
            for one in measured:
                for warning in check_comparable(one.name, one.stored, other.name, other.stored):
                    console.warn(warning)
        materials = [Material(one.part, one.name, one.stored) for one in opened]
        if vae is not None and autoencoder is not None:
            materials.append(Material("VAE", "VAE", autoencoder.model))
        bank = FeatureBank(open_extractor(options.features, options.torchscript, target))
        sides = [Side(one.part, one.images.stored.cases, one.images.files) for one in opened if one.part != TRAINING]
        pairing = pairing_of(options.pair_by, sides)
        results = []
        against = {part: one.stored for part, one in others.items()}
        for one in measured:
            inputs = Inputs(
                one.stored,
                bank,
                console.progress,
                reference=against.get(REFERENCE),
                training=against.get(TRAINING),
                thick=against.get(THICK),
                vae=reconstructor,
                maps=ComparableMaps.like(one.stored.header),
                ratings=rated,
                whole=one.images.stored,
                pairing=pairing,
                seed=options.seed,
                device=target,
            )
            results.append(evaluate(one.name, inputs, options))
        pairs = compare(results, options.seed)
        _print(console, results, pairs)
        provenance = provenance_of(options, materials)
        numbers = as_json(results, options, provenance, comparison_json(pairs) if pairs else None)
        if console.page is not None:
            from medgen.report.evaluation_page import report

            with atomic_file(console.page, force=force) as temporary:
                temporary.write_text(report(results, pairs, materials, provenance, numbers), encoding="utf-8")
        if pairs_png is not None:
            from medgen.report.pairs_sheet import pairs_sheet

            with atomic_file(pairs_png, force=force) as temporary:
                temporary.write_bytes(pairs_sheet(results))
    text = json.dumps(numbers, indent=2, allow_nan=False) + "\n"
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
