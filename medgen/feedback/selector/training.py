"""`train-selector`: from sets and a ratings file to a selector's file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from medgen.artifacts.label_maps import mask_names
from medgen.artifacts.model_file import Model, save_model
from medgen.artifacts.provenance import Identified, derive
from medgen.artifacts.stored import StoredSet
from medgen.config import did_you_mean, plain
from medgen.errors import DataError, UsageError
from medgen.feedback.selector.describing import describe_cases, parts_of
from medgen.feedback.selector.learning import Learned, learn, scorer_of
from medgen.feedback.selector.options import SelectorOptions
from medgen.imaging.labels.answers import Answers, match
from medgen.imaging.labels.ratings import REAL, Ratings
from medgen.models.facts import TRUST_FLOOR, SelectorFacts, check_intensity
from medgen.models.selector import Describer
from medgen.models.trained import FrozenVAE
from medgen.nets.perception.requested import PLACE
from medgen.reporting import Reporter

FEWEST = 10
"""Cases with answers below which nothing can be learned."""


def train_selector(
    sets: Sequence[StoredSet],
    names: Sequence[str],
    ratings: Ratings,
    file: Path,
    output: Path,
    options: SelectorOptions,
    reporter: Reporter,
    *,
    device: torch.device,
    vae: FrozenVAE | None = None,
    force: bool = False,
) -> Model:
    """Learn from the ratings in `file` of the cases of these sets, and write the selector to `output`.

    DataError for too few ratings, or sets that one selector cannot judge; UsageError for an aspect without ratings.
    """
    check_alike(sets, names)
    answers = chosen(match_said(ratings, sets, file, reporter), options.aspects)
    rated = np.unique(np.concatenate([one.cases() for one in answers.values()]))
    if len(rated) < FEWEST:
        raise DataError(f"{file}: {len(rated)} cases of the set were rated; a selector needs at least {FEWEST}")
    parts, header = parts_of(sets), sets[0].header
    shape, intensity = sets[0].arrays()["image"][0], header.intensity
    if intensity is None or len(shape) != 3:
        raise DataError(f"{names[0]}: does not say what its image values mean; preprocess it again")
    if vae is not None:
        check_intensity(header, vae.facts)
    classes = mask_names(header) if "mask" in parts else ()
    fields = tuple(header.vector_fields) if "vector" in parts else ()
    place = set(PLACE) <= set(fields)
    describe = Describer(vae, max(len(classes), 1), device, fields if place else ())
    with reporter.progress(len(rated), "cases") as advance:
        described = describe_cases(sets, rated, parts, describe, advance)
    with reporter.progress(len(answers), "aspects") as advance:
        renumbered = {name: one.renumbered(rated) for name, one in answers.items()}
        learned = learn(described, renumbered, options.seed, advance)
    facts = SelectorFacts(
        shape=(shape[0], shape[1], shape[2]),
        intensity=intensity,
        aspects=tuple(learned.aspects),
        combined=learned.combined,
        trust={name: one.trust for name, one in learned.aspects.items()},
        overall=learned.overall,
        parts=parts,
        vector_fields=fields,
        place=place,
        mask_names=classes,
        features="" if vae is not None else describe.digest,
        vae_digest=describe.digest if vae is not None else "",
    )
    _say(learned, facts, reporter)
    scorer = scorer_of(learned, described)
    settings = plain(options) | {"ratings": ratings.digest()}
    inputs: list[Identified] = [*sets, *([vae.model] if vae is not None else [])]
    return save_model(
        output,
        kind="selector",
        config=plain(scorer.config),
        weights=scorer.state_dict(),
        facts=msgspec.to_builtins(facts),
        provenance=derive("train-selector", settings, seed=options.seed, inputs=inputs),
        inputs=inputs,
        force=force,
    )


def match_said(ratings: Ratings, sets: Sequence[StoredSet], file: Path, reporter: Reporter) -> dict[str, Answers]:
    """The ratings of these sets by aspect; oddities of the file are reported."""
    if ratings.half_line:
        reporter.warn(f"{file}: its last line is cut short, as a crash leaves it; it was left out")
    if ratings.replaced:
        reporter.say(f"{file}: {ratings.replaced} ratings were given again by the same rater; the last ones count")
    matched = match(ratings, sets, str(file))
    if matched.elsewhere:
        reporter.warn(f"{file}: {matched.elsewhere} ratings are about other sets; they were left out")
    return matched.aspects


def chosen(answers: dict[str, Answers], asked: Sequence[str] | None) -> dict[str, Answers]:
    """The aspects asked for; by default all but `real`, which says nothing about how good an image is."""
    known = {name: one for name, one in answers.items() if name != REAL}
    if asked is None:
        if not known:
            raise DataError(f"only '{REAL}' was rated, and a selector cannot learn from that")
        return known
    for name in asked:
        if name not in known:
            hint = did_you_mean(name, known, f"rated aspects: {', '.join(known)}")
            raise UsageError(f"--aspects: no rating of '{name}'{hint}")
    return {name: known[name] for name in dict.fromkeys(asked)}


def check_alike(sets: Sequence[StoredSet], names: Sequence[str]) -> None:
    """DataError unless all are sets of images that one selector can judge."""
    for stored, name in zip(sets, names, strict=True):
        if stored.header.kind != "image":
            raise DataError(f"{name}: is a set of kind '{stored.header.kind}'; only images are rated")
        if not stored.cases:
            raise DataError(f"{name}: holds no case")
        if stored.arrays()["image"][0] != sets[0].arrays()["image"][0]:
            raise DataError(f"{name}: its images have another size than those of {names[0]}; train on each set alone")
        for what in ("intensity", "vector_fields", "mask_names"):
            if getattr(stored.header, what) != getattr(sets[0].header, what):
                raise DataError(f"{name}: its {what} differ from those of {names[0]}; train on each set alone")


def _say(learned: Learned, facts: SelectorFacts, reporter: Reporter) -> None:
    reporter.report["aspects"] = {
        name: {**msgspec.to_builtins(one.trust), "says": one.trust.says, "raters": one.reliabilities()}
        for name, one in learned.aspects.items()
    }
    reporter.report["overall"] = {**msgspec.to_builtins(facts.overall), "says": facts.says}
    for name, one in learned.aspects.items():
        raters = ", ".join(f"{rater} {told['weight']:.2f}" for rater, told in one.reliabilities().items())
        reporter.say(f"{name}: held-out {one.trust}; weights of raters: {raters}")
        for rater, told in one.reliabilities().items():
            if told["weight"] == 0:
                reporter.warn(f"{name}: the answers of {rater} do not follow what the others see; they do not count")
    if not facts.says:
        reporter.warn(
            f"the selector's scores mean nothing: {facts.overall} on unseen cases, and it takes a correlation of "
            f"{TRUST_FLOOR:g} that is clearly above 0; select and align refuse it unless --weak is given"
        )
