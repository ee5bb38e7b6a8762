"""`medgen generate`: conditions -> image set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import Adapters, Device, Force, OutputSet, Shard
from medgen.cli.set_maker import SetMaker
from medgen.diffusion.options import SAMPLING
from medgen.inference.generate_options import GenerateOptions

CONDITIONS = "Conditions"
VERIFYING = "Verification"
TRIES = 4
"""Most draws of a sample, where none are asked for."""


def _report_part(told: str) -> Any:
    return typer.Option(metavar="TEXT", help=told, rich_help_panel=CONDITIONS)


@takes(GenerateOptions)
def command(
    context: typer.Context,
    given: Given,
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="The diffusion model, from train-diffusion, or a Stable Diffusion folder."
        ),
    ],
    vae: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The VAE that decodes the model's latents; a diffusers folder has its own."),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", min=1, metavar="N", help="How many samples.  [default: 1, or one per condition]"),
    ] = None,
    output: OutputSet = "-",
    vector: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="One condition for all samples; fields not named are 0.",
            rich_help_panel=CONDITIONS,
        ),
    ] = None,
    conditions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="One row per sample; columns: fields of the vector, text, modality, mask (a file).",
            rich_help_panel=CONDITIONS,
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="SET", help="Take each sample's vector, mask and text from this set.", rich_help_panel=CONDITIONS
        ),
    ] = None,
    like_split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Only from the cases of this split.  [default: all]", rich_help_panel=CONDITIONS
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(metavar="PLACE", help="A mask, or a folder of them: one sample each.", rich_help_panel=CONDITIONS),
    ] = None,
    mask_augment: Annotated[
        bool,
        typer.Option(
            "--mask-augment",
            help="Make new masks from those given: resized, shifted, rotated, bent; mirrored if the training was.",
            rich_help_panel=CONDITIONS,
        ),
    ] = False,
    unconditional: Annotated[
        bool,
        typer.Option("--unconditional", help="Sample without a condition.", rich_help_panel=CONDITIONS),
    ] = False,
    negative_vector: Annotated[
        str | None,
        typer.Option(metavar="NAME=VALUE,...", help="What guidance leads away from.", rich_help_panel=CONDITIONS),
    ] = None,
    guide_by: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="Guide away from this weaker model's prediction instead of the unconditional one (autoguidance).",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    adapter: Adapters = None,
    prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What the images should show.", rich_help_panel=CONDITIONS),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Prompts, one per line and sample; - is standard input.", rich_help_panel=CONDITIONS
        ),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Modality of the prompts given by option.  [default: none]",
            rich_help_panel=CONDITIONS,
        ),
    ] = None,
    findings: Annotated[str | None, _report_part("What the images should show, as in a report.")] = None,
    impression: Annotated[str | None, _report_part("What the findings mean.")] = None,
    technique: Annotated[str | None, _report_part("How the images are taken.")] = None,
    history: Annotated[str | None, _report_part("What is known about the patient.")] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=TEXT", help="Any field of the template; repeatable.", rich_help_panel=CONDITIONS),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            metavar="[FILE.toml:]NAME",
            help="Make prompts from fields, or from the columns of --conditions; see presets --prompts.  "
            "[default: report, caption]",
            rich_help_panel=CONDITIONS,
        ),
    ] = None,
    retrieve: Annotated[
        Path | None,
        typer.Option(
            metavar="SET",
            help="Find the real training cases whose texts are closest to the prompt (BM25).",
            rich_help_panel=CONDITIONS,
        ),
    ] = None,
    retrieve_use: Annotated[
        str | None,
        typer.Option(
            metavar="terms|image",
            help="Add their terms to the prompt, or start from the closest case's image.  [default: terms]",
            rich_help_panel=CONDITIONS,
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="How far the image is noised, as a share of the schedule: above 0, up to 1.  [default: 0.7]",
            rich_help_panel=CONDITIONS,
        ),
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="The frozen text encoder that the model was trained with.",
            rich_help_panel=CONDITIONS,
        ),
    ] = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What guidance leads away from.", rich_help_panel=CONDITIONS),
    ] = None,
    until: Annotated[
        Literal["verified"] | None,
        typer.Option(
            help="Redraw, with other seeds, samples that do not show what was asked for.", rich_help_panel=VERIFYING
        ),
    ] = None,
    tries: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="With --until: most draws of one sample.  [default: 4]",
            rich_help_panel=VERIFYING,
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="SET",
            help="With --until: real images to learn the measurement from, as in select --verify.",
            rich_help_panel=VERIFYING,
        ),
    ] = None,
    device: Device = "auto",
    shard: Shard = None,
    force: Force = False,
) -> None:
    """Sample images under chosen conditions.

    The images have the stored values of the training images (HU for CT). Sample i depends only on the seed and i: it is
    the same at any batch size and shard count. Samples are marked as generated and belong to no split, so nothing
    trains on them by accident.

    Examples:
      medgen generate model.safetensors --vae vae.safetensors --vector has_nodule=1,x=0.4 -n 8 | medgen preview -o s.png
      medgen generate model.safetensors --prompt "fundus of the left eye with drusen" -n 8 -o drusen.h5
      medgen generate polyps.safetensors --like pairs.h5 --mask-augment -n 2000 -o more.h5

    """
    options = given.resolve(GenerateOptions)

    import contextlib

    from medgen.artifacts.provenance import Identified, derive
    from medgen.artifacts.sets import open_set
    from medgen.errors import UsageError
    from medgen.evaluation.agreement.declaration import ProbeOptions
    from medgen.evaluation.masks.declaration import MasksOptions
    from medgen.inference.conditions.asking import Asked
    from medgen.inference.conditions.fields import asked_fields
    from medgen.inference.conditions.ranges import far_outside
    from medgen.inference.generate import Generator
    from medgen.models.adapters import open_adapters
    from medgen.models.opening import open_vae
    from medgen.models.trained import Denoiser, FrozenVAE
    from medgen.nets.compute import resolve_device

    negative = "--negative-prompt" if negative_prompt is not None else "--negative-vector"
    if guide_by is not None and (negative_prompt is not None or negative_vector is not None):
        raise UsageError(f"{negative} and --guide-by both say what guidance leads away from; give one")
    if (until is None) != (reference is None):
        raise UsageError("--until verified needs --reference SET, the real images, and only --until takes it")
    if until is None and tries is not None:
        given.warn("--tries has no effect without --until verified")
    tries = tries or TRIES
    maker = SetMaker.of(context, output, force=force, shard=shard, keep_going=until is not None)
    target = resolve_device(device)
    asked_precision = maker.precision(options.precision, target)
    adapters = open_adapters(adapter or (), maker.console)
    denoiser = Denoiser.load(model, target, asked_precision, ema=options.ema, adapters=adapters)
    decoder = None
    if vae is None and model.is_dir():
        vae = model
    if vae is not None:
        decoder = FrozenVAE.load(open_vae(vae, digest=denoiser.facts.vae_digest), target, asked_precision)
    weaker = Denoiser.load(guide_by, target, asked_precision, ema=options.ema) if guide_by is not None else None
    generator = Generator(denoiser, decoder, options, weaker)

    asked = Asked(
        count=count,
        vector=vector,
        conditions=conditions,
        like=like,
        like_split=like_split,
        mask=mask,
        mask_augment=mask_augment,
        unconditional=unconditional,
        negative_vector=negative_vector,
        fields=asked_fields(
            template, field or [], history=history, technique=technique, findings=findings, impression=impression
        ),
        prompt=prompt,
        prompts=prompts,
        modality=modality,
        negative_prompt=negative_prompt,
        retrieve=retrieve,
        retrieve_use=retrieve_use,
        strength=strength,
        text_encoder=text_encoder,
    )
    with contextlib.ExitStack() as stack:
        requests, sets = stack.enter_context(asked.requests(denoiser, options.seed, maker.console))
        real = None if reference is None else stack.enter_context(open_set(reference, random_access=True))
        if weaker is None and requests.empty:
            given.warn_unused(("guidance", "guidance_shape", "guidance_rescale"), "without a condition")
        inputs: list[Identified] = [*(network.model for network in generator.networks), *adapters, *sets]
        inputs += [] if real is None else [real]
        settings = generator.settings(requests) | {"precision": maker.settled(*generator.networks)}
        if generator.guided_as_trained:
            maker.console.detail(f"guidance {generator.guidance:g}, which the training of {model} found best")
        far = far_outside(denoiser.facts, generator.guidance, requests, sets)
        for warning in (*far, *generator.without_effect(requests)):
            maker.console.warn(warning)
        if until is not None:
            settings |= {"until": until, "tries": tries}
        if adapters:
            settings["adapter_strengths"] = [one.strength for one in adapters]
        provenance = derive("generate", settings, seed=options.seed, inputs=inputs)
        indices = range(maker.part, requests.count, maker.parts)
        header = generator.header(provenance, requests)
        with maker.console.progress(len(indices), "samples") as advance:
            cases, nothing, redrawing = generator.cases(indices, requests), "", None
            if real is not None:
                from medgen.feedback.verification.redrawing import Redrawing
                from medgen.feedback.verification.verifier import Verifier

                segmenter, probe = MasksOptions().segmenter, ProbeOptions()
                verifier = Verifier(real, header, segmenter, probe, maker.console, target, options.seed)
                redrawing = Redrawing(generator, verifier, tries)
                cases, nothing = redrawing.cases(indices, requests, maker.leave_out), redrawing.nothing
            maker.write(cases, header, inputs, advance, nothing=nothing)
        if requests.retrieved:
            maker.console.report.update(retrieved=requests.retrieved.report())
        if warps := requests.warps():
            maker.console.report.update(mask_warps=warps)
        if requests.masks and (same := len(requests.masks.unchanged)):
            maker.console.warn(f"{same} masks are as they were given: changed, they would not stay whole and inside")
    made = len(indices) - len(maker.left_out)
    maker.console.say(f"{made} samples, {options.told()}")
    maker.console.report.update(samples=made)
    if redrawing is not None:
        maker.console.say(redrawing.told(len(maker.left_out)))
        for warning in redrawing.verifier.warnings():
            maker.console.warn(warning)
        maker.console.report.update(verified=redrawing.verifier.summary())
        maker.finish(gave_up=list(maker.left_out))
