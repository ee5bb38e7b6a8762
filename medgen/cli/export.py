"""`medgen export`: a set -> DICOM, NIfTI or PNG files, or the folder that nnU-Net reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.console import Console
from medgen.cli.flags import Given, takes
from medgen.cli.options import Force, InputSet, console_of
from medgen.errors import UsageError
from medgen.imaging.writing.options import ExportOptions


@takes(ExportOptions)
def command(
    context: typer.Context,
    given: Given,
    source: InputSet = "-",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The folder to make.  [required]")
    ] = None,
    vae: Annotated[
        Path | None, typer.Option(metavar="PLACE", help="With --to diffusers: the VAE of the model.")
    ] = None,
    force: Force = False,
) -> None:
    """Write a set as files, an adapter for peft, or a model for diffusers.

    A case is a file or folder named after its id; conditions.csv lists the slices with their conditions. DICOM is
    marked as derived, gets new UIDs, and names no patient; images that a model made are marked as synthetic. Masks are
    written next to their images as CASE_mask, in DICOM as segmentations; classes.json names their values. For nnU-Net,
    cases of the test split go to imagesTs, all others to imagesTr. A model can go to diffusers if it was tuned from
    Stable Diffusion.

    Examples:
      medgen export samples.h5 --to dicom -o samples/
      medgen export adapter.safetensors --to peft -o adapter/
      medgen generate siamese.safetensors --mask masks/ | medgen export --to nnunet -o Dataset501_Polyp

    """
    options = given.resolve(ExportOptions)
    if output is None:
        raise UsageError("give -o DIR, the folder to make")
    if vae is not None and options.to != "diffusers":
        raise UsageError(f"--vae belongs to --to diffusers, not to --to {options.to}; leave it out")
    if options.to not in ("png", "nnunet"):
        given.warn_unused(("bits",), f"with --to {options.to}")
    if options.to in ("peft", "diffusers"):
        given.warn_unused(("split", "limit"), f"with --to {options.to}")
    if options.to == "diffusers":
        _export_pipeline(Path(source), vae, output, console_of(context), force=force)
        return
    if options.to == "peft":
        _export_adapter(source, output, console_of(context), force=force)
        return

    from medgen.artifacts.outputs.whole import atomic_folder
    from medgen.artifacts.sets import open_set
    from medgen.imaging.writing.exporting import export_cases

    console = console_of(context)
    with (
        atomic_folder(output, force=force) as folder,
        open_set(source) as reader,
        console.progress(None, "cases") as advance,
    ):
        cases, slices = export_cases(reader.header, reader, folder, options, advance)
    console.say(f"{cases} cases, {slices} slices as {options.to} in {output}")
    console.report.update(cases=cases, slices=slices)


def _export_adapter(source: str, output: Path, console: Console, *, force: bool) -> None:
    from medgen.artifacts.outputs.whole import atomic_folder
    from medgen.models.adapters import Adapter
    from medgen.models.peft_folder import write_peft_folder

    adapter = Adapter.open(source)
    changes = adapter.at_strength()
    with atomic_folder(output, force=force) as folder:
        write_peft_folder(folder, changes)
    console.say(f"{len(changes)} layers as peft in {output}")
    console.report.update(layers=len(changes))
    if adapter.facts and adapter.facts.four_bit:
        console.warn(f"{adapter.path}: was trained on 4-bit weights; peft gives slightly other results on exact ones")


def _export_pipeline(source: Path, vae: Path | None, output: Path, console: Console, *, force: bool) -> None:
    from medgen.artifacts.outputs.whole import atomic_folder
    from medgen.models.diffusers.writing import write_pipeline
    from medgen.models.opening import open_network, open_vae

    if vae is None and not source.is_dir():
        raise UsageError("give the VAE of the model with --vae: the folder holds both")
    denoiser = open_network(source, "denoiser")
    decoder = open_vae(vae or source, digest=denoiser.facts.get("vae_digest", ""))
    with atomic_folder(output, force=force) as folder:
        write_pipeline(folder, denoiser, decoder)
    console.say(f"a pipeline of diffusers in {output}")
