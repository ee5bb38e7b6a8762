"""`medgen evaluate`: sets -> JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medgen.cli.options import Device, Force, InputSet, Seed, console_of

if TYPE_CHECKING:
    from medgen.artifacts.stored import StoredSet
    from medgen.cli.console import Console

METRICS = ("reconstruction", "fidelity", "conditioning")


def command(
    context: typer.Context,
    source: InputSet = "-",
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="SET", help="Real images, or those that the set should equal."),
    ] = None,
    reference_split: Annotated[
        str | None,
        typer.Option("--reference-split", metavar="NAME", help="Only that split of --reference, such as test."),
    ] = None,
    vae: Annotated[
        Path | None, typer.Option("--vae", metavar="FILE", help="Compare the set with its reconstruction by this VAE.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics", metavar="A,B,...", help=f"Of {', '.join(METRICS)}.  [default: all that the inputs allow]"
        ),
    ] = None,
    features: Annotated[
        str, typer.Option("--features", metavar="NAME", help="Extractor for fidelity: builtin.")
    ] = "builtin",
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE.json", help="Where the JSON goes; - is standard output.")
    ] = "-",
    seed: Seed = None,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Measure a set: reconstruction, fidelity, conditioning.

    Reconstruction compares images pair by pair: with the cases of equal id in --reference, or with what --vae makes of
    them. Fidelity is the Frechet distance to --reference beside the distance of real images from each other.
    Conditioning asks whether each sample shows the nodule its vector asks for; its measuring rule is fitted to one half
    of --reference and tried on the other.
    """
    import contextlib

    from medgen.artifacts.atomic import atomic_file, check_output
    from medgen.artifacts.sets import open_set
    from medgen.errors import UsageError

    console = console_of(context)
    chosen = _chosen(metrics)
    if features != "builtin":
        raise UsageError(f"--features {features}: this version has the extractor 'builtin' only")
    if output != "-":
        check_output(Path(output), force=force)
    with contextlib.ExitStack() as stack:
        stored = stack.enter_context(open_set(source, random_access=True))
        real = stack.enter_context(open_set(reference, random_access=True)) if reference is not None else None
        if real is not None and reference_split is not None:
            real = real.only(reference_split)
        text = _as_json(_measure(console, chosen, stored, real, reference_split, vae, device, seed or 0))
    if output == "-":
        typer.echo(text, nl=False)
        return
    with atomic_file(Path(output), force=force) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _chosen(metrics: str | None) -> tuple[str, ...] | None:
    from medgen.config import nearest
    from medgen.errors import UsageError

    if metrics is None:
        return None
    names = tuple(name.strip() for name in metrics.split(","))
    for name in names:
        if name not in METRICS:
            match = nearest(name, METRICS)
            hint = f"did you mean '{match}'?" if match else f"metrics: {', '.join(METRICS)}"
            raise UsageError(f"--metrics: no metric '{name}'; {hint}")
    return names


def _measure(
    console: Console,
    chosen: tuple[str, ...] | None,
    stored: StoredSet,
    real: StoredSet | None,
    split: str | None,
    vae: Path | None,
    device: str,
    seed: int,
) -> dict[str, Any]:
    """Every chosen metric (None: every possible one), and what was compared."""
    from medgen import __version__
    from medgen.errors import UsageError

    lacking = _lacking(stored, real, vae)
    if chosen is None:
        chosen = tuple(name for name in METRICS if not lacking[name])
        if not chosen:
            raise UsageError(f"nothing to measure: {'; '.join(f'{name} {lacking[name]}' for name in METRICS)}")
    for name in chosen:
        if lacking[name]:
            raise UsageError(f"{name} {lacking[name]}")
    result: dict[str, Any] = {
        "schema": "medgen.evaluation/1",
        "version": __version__,
        "seed": seed,
        "set": _identity(stored),
        "reference": _identity(real) if real is not None else None,
        "reference_split": split,
    }
    if "reconstruction" in chosen:
        result["reconstruction"] = _reconstruction(console, stored, real, vae, device)
    if "fidelity" in chosen and real is not None:
        result["fidelity"] = _fidelity(console, stored, real, device, seed)
    if "conditioning" in chosen:
        result["conditioning"] = _conditioning(console, stored, real, seed)
    return result


def _lacking(stored: StoredSet, real: StoredSet | None, vae: Path | None) -> dict[str, str]:
    """What each metric misses, in words, with the remedy; "" where nothing is."""
    from medgen.metrics.conditioning import FIELDS

    lacking = dict.fromkeys(METRICS, "")
    shared = real is not None and {row.id for row in stored.cases} & {row.id for row in real.cases}
    if vae is None and not shared:
        lacking["reconstruction"] = "needs pairs: give --vae, or a --reference that holds the same cases"
    if real is None:
        lacking["fidelity"] = "needs real images: give --reference SET"
    if not set(FIELDS) <= set(stored.header.vector_fields):
        lacking["conditioning"] = (
            f"needs a set whose vectors name {', '.join(FIELDS)}: generate it with --vector or --like"
        )
    elif stored.header.intensity is None or stored.header.intensity.unit != "HU":
        lacking["conditioning"] = "measures nodules in CT: it needs a set in HU"
    return lacking


def _reconstruction(
    console: Console, stored: StoredSet, real: StoredSet | None, vae: Path | None, device: str
) -> dict[str, Any]:
    from medgen.errors import UsageError
    from medgen.metrics.reconstruction import compare_sets, compare_with_model

    if vae is None:
        if real is None:
            raise UsageError("reconstruction needs --vae or --reference")
        with console.progress(stored.slices, "slices") as advance:
            result = compare_sets(stored, real, advance)
    else:
        from medgen.inference.models import load_vae
        from medgen.nets.compute import resolve_device

        autoencoder = load_vae(vae, resolve_device(device))
        with console.progress(stored.slices, "slices") as advance:
            result = compare_with_model(stored, autoencoder.reconstruct, advance)
        result["vae_digest"] = autoencoder.model.digest
    unit = result["unit"]
    names = {
        "psnr": "PSNR (dB)",
        "ssim": "SSIM",
        "ms_ssim": f"MS-SSIM ({result['ms_ssim_scales']} scales)",
        "mse": "MSE in [0, 1]",
        "mae": "MAE in [0, 1]",
        "mae_physical": f"MAE ({unit})",
        "rmse_physical": f"RMSE ({unit})",
    }
    rows = [
        [title, *(f"{result[name][column]:.4g}" for column in ("mean", "std", "median"))]
        for name, title in names.items()
        if result.get(name)
    ]
    console.table(f"reconstruction of {result['pairs']} slices", ["", "mean", "std", "median"], rows)
    for name, what in {"non_finite": "hold NaN or infinity", "constant": "show one value only"}.items():
        if result[name]:
            console.warn(f"{result[name]} pairs {what}; they are not in the means")
    return result


def _fidelity(console: Console, stored: StoredSet, real: StoredSet, device: str, seed: int) -> dict[str, Any]:
    from medgen.metrics.fidelity import builtin_extractor, compare, extract
    from medgen.nets.compute import resolve_device

    extractor = builtin_extractor(resolve_device(device))
    with console.progress(stored.slices + real.slices, "slices") as advance:
        result = compare(extract(stored, extractor, advance), extract(real, extractor, advance), extractor, seed)
    rows = [
        ["all samples", f"{result['frechet_distance']:.4g}", f"{result['samples']} / {result['reference_samples']}"]
    ]
    for name, title in {"at_floor_size": "at the floor's size", "floor": "floor: real against real"}.items():
        if result[name]:
            rows.append(
                [title, f"{result[name]['mean']:.4g}", f"{result['floor_samples']} / {result['floor_samples']}"]
            )
    console.table(f"Frechet distance, features {extractor.name} {extractor.digest[:12]}", ["", "distance", "N"], rows)
    for warning in result["warnings"]:
        console.warn(warning)
    return result


def _conditioning(console: Console, stored: StoredSet, real: StoredSet | None, seed: int) -> dict[str, Any]:
    from medgen.metrics.conditioning import FIELDS, evaluate, measure

    known = real if real is not None and set(FIELDS) <= set(real.header.vector_fields) else None
    with console.progress(stored.slices + (known.slices if known else 0), "slices") as advance:
        samples = measure(stored, advance)
        result = evaluate(samples, measure(known, advance) if known else None, seed=seed)
    columns = {"samples": "samples", "ceiling": "known nodules", "chance": "shuffled"}
    shown = {name: title for name, title in columns.items() if result[name]}
    rows = [
        ["nodule found where asked", *(_rate(result[name]["hit_rate"]) for name in shown)],
        ["... and within a factor 2 of its size", *(_rate(result[name]["hit_rate_with_size"]) for name in shown)],
        ["median error of place (% of width)", *(_number(result[name]["position_error_percent"]) for name in shown)],
        ["median error of place (mm)", *(_number(result[name]["position_error_mm"]) for name in shown)],
        ["median error of size (% of width)", *(_number(result[name]["size_error_percent"]) for name in shown)],
    ]
    for field in ("x", "y", "size"):
        values = [result[name]["correlation"][field] for name in shown]
        rows.append([f"correlation of {field}", *(_number(value and value["pearson"]) for value in values)])
    for title, right, wrong in (
        ("nodule seen where one was asked", "true_positive", "false_negative"),
        ("nodule seen where none was asked", "false_positive", "true_negative"),
    ):
        counts = [result[name]["confusion"] for name in shown]
        rows.append([title, *(f"{count[right]:.0f} of {count[right] + count[wrong]:.0f}" for count in counts)])
    console.table("conditioning", ["", *shown.values()], rows)
    if result["ceiling"] is None:
        console.warn("the measuring rule was not tried on known nodules; give a --reference with vectors")
    return result


def _identity(stored: StoredSet) -> dict[str, Any]:
    return {
        "provenance": stored.provenance.id,
        "digest": stored.tail.digest,
        "cases": len(stored),
        "slices": stored.slices,
    }


def _rate(rate: dict[str, float] | None) -> str:
    return "-" if rate is None else f"{100 * rate['value']:.0f} % ({100 * rate['low']:.0f} to {100 * rate['high']:.0f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _as_json(result: dict[str, Any]) -> str:
    import json

    return json.dumps(result, indent=2, allow_nan=False) + "\n"
