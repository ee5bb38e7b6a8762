"""`medgen generate`: conditions -> image set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import Device, Force, OutputSet, Shard
from medgen.cli.set_maker import SetMaker
from medgen.inference.generate_options import GenerateOptions

if TYPE_CHECKING:
    from medgen.artifacts.provenance import Identified
    from medgen.inference.conditions import Vectors


CONDITIONS = "Conditions"


@takes(GenerateOptions)
def command(
    context: typer.Context,
    given: Given,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The diffusion model, from train-diffusion.")],
    vae: Annotated[Path | None, typer.Option(metavar="FILE", help="The VAE that decodes the model's latents.")] = None,
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", min=1, metavar="N", help="How many samples.  [default: 1, or one a condition]"),
    ] = None,
    output: OutputSet = "-",
    vector: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="One condition for all; fields not named are 0.",
            rich_help_panel=CONDITIONS,
        ),
    ] = None,
    conditions: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="A row a sample, columns by field name.", rich_help_panel=CONDITIONS),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="SET", help="Take each sample's condition from this set.", rich_help_panel=CONDITIONS),
    ] = None,
    like_split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only from the cases of this split.", rich_help_panel=CONDITIONS),
    ] = None,
    unconditional: Annotated[
        bool,
        typer.Option("--unconditional", help="No condition (also when none is given).", rich_help_panel=CONDITIONS),
    ] = False,
    negative_vector: Annotated[
        str | None,
        typer.Option(metavar="NAME=VALUE,...", help="What guidance leads away from.", rich_help_panel=CONDITIONS),
    ] = None,
    device: Device = "auto",
    shard: Shard = None,
    force: Force = False,
) -> None:
    """Sample images under chosen conditions.

    The images are in the stored values of the training images (HU for CT). Sample i depends on the seed and i alone:
    the same at any batch size and shard count. Samples are marked as generated and belong to no split, so that no
    training takes them in unasked.

    Examples:
      medgen generate model.safetensors --vae vae.safetensors -n 64 -o samples.h5
      medgen generate model.safetensors --vae vae.safetensors --vector has_nodule=1,x=0.4 -n 8 | medgen preview -o s.png

    """
    options = given.resolve(GenerateOptions)

    from medgen.artifacts.provenance import derive
    from medgen.config import plain
    from medgen.errors import UsageError
    from medgen.inference.conditions import parse_vector
    from medgen.inference.generate import Generator
    from medgen.models.trained import Denoiser, FrozenVAE
    from medgen.nets.compute import resolve_device

    maker = SetMaker.of(context, output, force=force, shard=shard)
    target = resolve_device(device)
    asked_precision = maker.precision(options.precision, target)
    denoiser = Denoiser.load(model, target, asked_precision, ema=options.ema)
    decoder = FrozenVAE.load(vae, target, asked_precision) if vae is not None else None
    generator = Generator(denoiser, decoder, options)

    inputs: list[Identified] = [denoiser.model]
    if decoder is not None:
        inputs.append(decoder.model)
    fields = denoiser.facts.vector_fields
    asked = {"--vector": vector, "--conditions": conditions, "--like": like}
    named = [name for name, value in asked.items() if value is not None]
    if len(named) + unconditional > 1:
        raise UsageError(f"{' and '.join(named)}{' and --unconditional' * unconditional} exclude each other; give one")
    if (named or negative_vector is not None) and not fields:
        raise UsageError(f"{model} was trained without conditions; leave out {(named or ['--negative-vector'])[0]}")
    if negative_vector is not None and not named:
        raise UsageError("--negative-vector needs a condition to lead towards; give --vector, --conditions or --like")
    vectors = _vectors(fields, vector, conditions, like, like_split, count, inputs)
    negative = None if negative_vector is None else parse_vector(negative_vector, fields, "--negative-vector")
    total = (1 if count is None else count) if vectors is None else len(vectors)

    networks = (denoiser,) if decoder is None else (denoiser, decoder)
    settings = plain(options) | {"precision": maker.settled(*networks), "count": total}
    del settings["batch_size"]
    if vectors is not None:
        settings["conditions"] = _described(fields, vectors)
    if negative is not None:
        settings["negative"] = _described(fields, negative[None])
    provenance = derive("generate", settings, seed=options.seed, inputs=inputs)
    header = generator.header(provenance, conditional=vectors is not None)
    indices = range(maker.part, total, maker.parts)
    with maker.console.progress(len(indices), "samples") as advance:
        maker.write(generator.cases(indices, vectors, negative), header, inputs, advance)
    maker.console.say(f"{len(indices)} samples, {options.told()}")
    maker.console.report.update(samples=len(indices))


def _vectors(
    fields: tuple[str, ...],
    vector: str | None,
    conditions: Path | None,
    like: Path | None,
    like_split: str | None,
    count: int | None,
    inputs: list[Identified],
) -> Vectors | None:
    """The condition of every sample (N, K), or None; a set it came from joins `inputs`."""
    from medgen.artifacts.sets import open_set
    from medgen.errors import UsageError
    from medgen.inference.conditions import parse_vector, read_csv, spread, vectors_like

    if like_split is not None and like is None:
        raise UsageError("--like-split needs --like")
    if vector is not None:
        return spread(parse_vector(vector, fields)[None], count)
    if conditions is not None:
        return spread(read_csv(conditions, fields), count)
    if like is None:
        return None
    with open_set(like, random_access=True) as stored:
        inputs.append(stored)
        return vectors_like(stored, fields, count, like_split)


def _described(fields: tuple[str, ...], vectors: Vectors) -> dict[str, float] | str:
    """Conditions for the provenance: in words when all samples share them, else as a digest."""
    import hashlib

    if (vectors == vectors[0]).all():
        return {name: round(float(value), 6) for name, value in zip(fields, vectors[0], strict=True)}
    return hashlib.sha256(vectors.tobytes()).hexdigest()[:16]
