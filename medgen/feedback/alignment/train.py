"""`align`: the policy step from end to end."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from medgen.artifacts.model_file import open_model
from medgen.artifacts.provenance import Identified
from medgen.artifacts.schema import SetHeader
from medgen.artifacts.sets import open_set
from medgen.config import convert
from medgen.diffusion.options import Objective, ScheduleConfig
from medgen.diffusion.schedules import Schedule
from medgen.errors import ConfigError, DataError, UsageError
from medgen.feedback.alignment.align_options import AlignOptions, DDPOOptions, DPOOptions
from medgen.feedback.alignment.chain import first_distance
from medgen.feedback.alignment.drawing import Space
from medgen.feedback.alignment.held_out import HeldOut, check_images
from medgen.feedback.alignment.judgement import Judgement, RawFile, asked_of, rated_sets, requests_of, reward_of
from medgen.feedback.alignment.learner import AlignLearner, Reward
from medgen.feedback.alignment.rated import RatedImages
from medgen.feedback.alignment.rehearsal import Rehearsed, training_slices
from medgen.feedback.alignment.sources import Asked, AskedGroups
from medgen.feedback.alignment.truth import Truth
from medgen.models.adapters import KIND as ADAPTER
from medgen.models.facts import AdapterFacts, DenoiserFacts
from medgen.models.selector import Selector
from medgen.models.trained import Denoiser, FrozenVAE, check_pair
from medgen.nets.kernels import let_weights_change
from medgen.nets.lora.four_bit import in_four_bits
from medgen.nets.lora.low_rank import of_changes
from medgen.nets.unet import UNet
from medgen.training.loop.adapter import attach
from medgen.training.loop.resume import below
from medgen.training.loop.run import BatchSources, Fitted, Run, Training, start


@dataclass(frozen=True)
class Task:
    """What is aligned, by whose judgement, and for which conditions."""

    model: Path
    vae: Path | None
    judgement: Judgement
    conditions: Path | None = None
    """A CSV file of conditions to draw for; None: those of the reference."""


def align(run: Run, task: Task, options: AlignOptions) -> None:
    """Align a model, held against the real images of the set `run.source`, and write it."""
    if task.judgement.selector is None and isinstance(options, DDPOOptions):
        raise UsageError("ddpo learns from the steps by which images are drawn; give --selector, or another method")
    with start(run, options) as training, contextlib.ExitStack() as stack:
        denoiser = Denoiser.load(task.model, training.device, "float32", tuned=False)
        vae = None if task.vae is None else training.load_vae(task.vae, options)
        judging = vae if _judges_latents(task.judgement.selector) else None
        decoder = None if denoiser.facts.space == "image" and judging else vae
        check_pair(denoiser, decoder)
        space = space_of(denoiser.facts, decoder)
        held_out = HeldOut(training.stored, space.facts, space.shape, training.device, training.reporter.warn)
        requests = stack.enter_context(
            requests_of(denoiser, run.source, task.conditions, options.seed, training.reporter)
        )
        asked = asked_of(requests, space.facts.mask_names)
        inputs: list[Identified] = [denoiser.model]
        if task.conditions is not None:
            inputs.append(RawFile.of(task.conditions, "conditions"))
        source: AskedGroups | RatedImages | Rehearsed
        reward: Reward | None = None
        if task.judgement.selector is not None:
            selector = _selector(task.judgement.selector, judging, space, training, weak=options.weak)
            inputs.append(selector.model)
            reward = reward_of(selector, requests)
            source = AskedGroups(asked, options.group, options.seed)
        else:
            source = _rated(task.judgement, denoiser, space, options, training, stack, inputs)
        theirs = asked if task.conditions is None else _theirs(denoiser, options, training, stack)
        if options.rehearsal and theirs is not None:
            source = _rehearsed(source, theirs, options, training)
        real = asked if theirs is None else replace(theirs, numbers=held_out.slices)
        others = None if theirs is None or theirs is asked else asked
        truth = Truth.by(training, denoiser, decoder, requests) if options.verify else None
        first = None if theirs is None else first_distance(denoiser.model, training.stored, options)
        unet = trainable(denoiser.network, options)
        learner = AlignLearner(options, unet, space, reward, real, others, held_out, training.reporter, truth, first)
        fitted = training.fit(learner, options, BatchSources(source, None), inputs, vae)
        if truth is not None:
            truth.report(training.reporter)
        write(training, fitted, learner, denoiser, options)


def write(training: Training, fitted: Fitted, learner: AlignLearner, denoiser: Denoiser, options: AlignOptions) -> None:
    """Write the aligned model, or its adapter alone if that was trained."""
    whole = partial(below, prefix="unet.")
    facts = learner.space.facts
    if options.lora is None:
        training.save(fitted, "denoiser", denoiser.network.config, facts, learner.figures, part=whole)
        return
    four_bit = in_four_bits(denoiser.network)
    of_base = AdapterFacts("denoiser", denoiser.model.digest, msgspec.to_builtins(facts), four_bit)
    training.save(
        fitted, ADAPTER, options.lora, of_base, learner.figures, part=lambda weights: of_changes(whole(weights))
    )


def trainable(unet: UNet, options: AlignOptions) -> UNet:
    """The network with gradients: of all its weights, or of an adapter that begins by changing nothing."""
    unet.requires_grad_(True)
    let_weights_change(unet)
    if options.lora is not None:
        attach(unet, options.lora, options.seed)
    return unet


def space_of(facts: DenoiserFacts, vae: FrozenVAE | None) -> Space:
    """The space in which a denoiser with these facts works."""
    schedule = Schedule(convert(ScheduleConfig, facts.schedule, "the model's schedule"))
    return Space(schedule, msgspec.convert(facts.objective, Objective), facts, vae)


def _judges_latents(selector: Path | None) -> bool:
    return selector is not None and bool(open_model(selector, kind="selector").facts.get("vae_digest"))


def _selector(path: Path, vae: FrozenVAE | None, space: Space, training: Training, *, weak: bool) -> Selector:
    """A selector that can judge the model's images, by the latents of `vae` if it is given; DataError if it cannot."""
    selector = Selector.load(path, training.device, vae, weak=weak)
    facts = space.facts
    made = SetHeader(
        kind="image",
        provenance=selector.model.provenance,
        intensity=facts.intensity,
        vector_fields=facts.vector_fields,
        mask_names=facts.mask_names,
    )
    selector.check(made, {"image": np.empty((0, *space.shape))}, "the model")
    return selector


def _rehearsed(
    source: AskedGroups | RatedImages, theirs: Asked, options: AlignOptions, training: Training
) -> AskedGroups | RatedImages | Rehearsed:
    """The source with real images beside it, if the reference has any that are not held out."""
    if not training_slices(training.stored):
        training.reporter.warn("the reference has no real training images, so none are learned from (--rehearsal)")
        return source
    return Rehearsed(source, training.stored, theirs.of, options.seed)


def _theirs(denoiser: Denoiser, options: AlignOptions, training: Training, stack: contextlib.ExitStack) -> Asked | None:
    """What the images of the reference show; None, with a warning, if it does not tell."""
    reporter = training.reporter
    try:
        requests = stack.enter_context(requests_of(denoiser, training.run.source, None, options.seed, reporter))
    except DataError as error:
        reporter.warn(
            f"the reference does not say what its images show in terms of the model's conditions ({error}): they are "
            "compared with images of the conditions asked for, and none of them is learned from"
        )
        return None
    return asked_of(requests, denoiser.facts.mask_names)


def _rated(
    judgement: Judgement,
    denoiser: Denoiser,
    space: Space,
    options: AlignOptions,
    training: Training,
    stack: contextlib.ExitStack,
    inputs: list[Identified],
) -> RatedImages:
    """The rated images; the sets stay open in `stack` and are added to `inputs`."""
    paired, size = isinstance(options, DPOOptions), options.loop.batch_size
    if paired and size % 2:
        raise ConfigError(f"loop.batch_size = {size} does not hold whole pairs; give an even number")
    assert judgement.ratings is not None
    sets = [stack.enter_context(open_set(name, random_access=True)) for name in judgement.sets]
    for name, stored in zip(judgement.sets, sets, strict=True):
        check_images(stored, space.facts, space.shape, name)
    requests = [
        stack.enter_context(requests_of(denoiser, name, None, options.seed, training.reporter))
        for name in judgement.sets
    ]
    inputs += [*sets, RawFile.of(judgement.ratings, "ratings")]
    rated = rated_sets(judgement.ratings, sets, requests, denoiser.facts.mask_names, training.reporter)
    return RatedImages(rated, options.seed, paired=paired, say=training.reporter.say)
