"""Agreement with the text as a probe sees it that learned from real images and texts.

The probe errs too. So every share is reported beside its share on real images that it did not learn from, and beside
chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.artifacts.stored import StoredSet
from medgen.evaluation.agreement.attributes import (
    FINDING,
    MODALITY,
    SIDE,
    Attribute,
    Texts,
    attributes_of,
    combinations,
)
from medgen.evaluation.agreement.declaration import AgreementOptions
from medgen.evaluation.agreement.probe import Lesson, answered, read_images
from medgen.evaluation.agreement.scores import Answers, agreement
from medgen.evaluation.features.features import key_of
from medgen.evaluation.inputs import Inputs, owners, slice_names
from medgen.evaluation.section import Score, Section, Table, percent
from medgen.nets.classifier import Classifier

Rows = npt.NDArray[np.int64]

TITLE = "Agreement with the text"
LEAST_CASES = 20
"""Real cases below which no probe is taught."""
TOGETHER = (SIDE, FINDING)
JOINT = "side and finding together"


def by_probe(inputs: Inputs, options: AgreementOptions) -> Section:
    """Teach the probe, try it on held-out real images, and ask it about the samples."""
    stored, real, seed = inputs.stored, inputs.reference, inputs.seed
    if real is None or not real.has("text"):
        told = "no probe was trained, because there are no real images with texts; give --reference SET"
        return Section("agreement", TITLE, {"attributes": {}}, [], [told])
    ours, theirs = texts_of(stored), texts_of(real)
    attributes = attributes_of(theirs, ours)
    if len(np.unique(theirs.cases)) < LEAST_CASES or not attributes:
        told = f"no probe was trained: the reference needs {LEAST_CASES} cases, and texts that say different things"
        return Section("agreement", TITLE, {"attributes": {}}, [], [told])
    with inputs.progress(stored.slices + real.slices, "slices") as advance:
        samples, shown = (read_images(one, options.side, advance) for one in (stored, real))
    lesson = Lesson.of(shown, attributes, theirs.cases, options.held_out, seed)

    def teach() -> Classifier:
        with inputs.progress(options.steps, "steps") as advance:
            return lesson.teach(options, seed, inputs.device, advance)

    questions = tuple(one.name for one in attributes)
    probe = inputs.bank.once(("agreement", key_of(real), questions, options, seed), teach)
    tried, held_out = lesson.tried(probe), lesson.held_out
    asked = np.stack([one.asked for one in attributes], axis=1)[samples.slices]
    given = Answers(asked, answered(probe, samples.images), ours.cases[samples.slices])
    result = _result(attributes, given, tried)
    result |= {"images": len(samples.slices), "held_out": int(held_out.sum()), "learned_from": int((~held_out).sum())}
    result["by_modality"] = _by_modality(attributes, given, tried)
    result["unseen"] = _unseen(inputs, attributes, given, tried, samples.slices, shown.slices[held_out])
    tables = [_table(result), *_further_tables(result)]
    return Section(
        "agreement",
        TITLE,
        result,
        tables,
        _warnings(result, attributes),
        scores=_scores(stored, attributes, given, samples.slices),
    )


def texts_of(stored: StoredSet) -> Texts:
    """The texts and modalities of a set's slices; cases of one patient count as one."""
    cases = np.repeat(np.array(owners(stored), np.int64), [row.count for row in stored.cases])
    modalities = stored.texts("modality") if stored.has("modality") else [""] * stored.slices
    return Texts(stored.texts("text"), modalities, cases)


def _questions(attributes: Sequence[Attribute]) -> dict[str, tuple[int, ...]]:
    """The places of each question, and of those that are asked together, by name."""
    names = [one.name for one in attributes]
    questions: dict[str, tuple[int, ...]] = {name: (place,) for place, name in enumerate(names)}
    if set(TOGETHER) <= set(names):
        questions[JOINT] = tuple(names.index(name) for name in TOGETHER)
    return questions


def _result(attributes: Sequence[Attribute], given: Answers, tried: Answers) -> dict[str, Any]:
    answers = {one.name: list(one.answers) for one in attributes}
    found = {
        name: {
            "answers": answers.get(name),
            "samples": agreement(given, places),
            "held_out_real": agreement(tried, places),
        }
        for name, places in _questions(attributes).items()
    }
    return {"attributes": found}


def _by_modality(attributes: Sequence[Attribute], given: Answers, tried: Answers) -> dict[str, Any]:
    """The same for the images of each modality that the texts ask for."""
    names = [one.name for one in attributes]
    if MODALITY not in names:
        return {}
    place = names.index(MODALITY)
    return {
        modality: _result(attributes, *(one[one.said[:, place] == number] for one in (given, tried)))["attributes"]
        for number, modality in enumerate(attributes[place].answers)
        if (given.said[:, place] == number).any()
    }


def _unseen(
    inputs: Inputs, attributes: Sequence[Attribute], given: Answers, tried: Answers, ours: Rows, theirs: Rows
) -> dict[str, Any] | None:
    """The same for samples of a modality, side and finding that no image learned from shows together.

    Those are the images of `--training`, else of the reference. None where there are no such samples.
    """
    if not {SIDE, FINDING} <= {one.name for one in attributes}:
        return None
    real, asked = (np.array(combinations(of_real, attributes)) for of_real in (True, False))
    known, source = set(real.tolist()), "reference"
    if inputs.training is not None and inputs.training.has("text"):
        if inputs.reference is None:
            raise ValueError("agreement needs a reference")
        again = attributes_of(texts_of(inputs.reference), texts_of(inputs.training))
        known, source = set(combinations(False, again)), "training"
    new = [one for one in dict.fromkeys(asked.tolist()) if one not in known and "unknown" not in one]
    if not new:
        return None
    result = _result(attributes, given[np.isin(asked[ours], new)], tried[np.isin(real[theirs], new)])
    return {"not_in": source, "combinations": new, **result}


def _scores(stored: StoredSet, attributes: Sequence[Attribute], given: Answers, slices: Rows) -> dict[str, Score]:
    names = slice_names(stored)
    scores = {}
    for name, places in _questions(attributes).items():
        if name in (MODALITY, SIDE, FINDING, JOINT):
            known, right = given.known(places), given.right(places)
            values = {names[slices[row]]: float(right[row]) for row in np.flatnonzero(known)}
            scores[name] = Score(f"{name} as the text says", "higher", values)
    return scores


def _table(result: dict[str, Any]) -> Table:
    columns = ("", "samples", "real, held out", "chance: shuffled texts", "chance: commonest answer", "images")
    note = (
        "The probe's accuracy on held-out real images is the most that samples can be expected to reach. "
        "Intervals are by case."
    )
    return Table("agreement with the text", columns, _rows(result["attributes"]), note)


def _rows(found: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, one in found.items():
        samples, real = one["samples"], one["held_out_real"]
        if samples is not None:
            chances = [f"{100 * samples[kind]:.0f} %" for kind in ("shuffled", "majority")]
            rows.append([name, percent(samples), percent(real), *chances, str(samples["images"])])
    return rows


def _further_tables(result: dict[str, Any]) -> list[Table]:
    tables = []
    if len(result["by_modality"]) > 1:
        rows = []
        for modality, found in result["by_modality"].items():
            cells = [found[name] for name in (MODALITY, SIDE, FINDING, JOINT) if name in found]
            rows.append(
                [modality, *(f"{percent(one['samples'])}, real {percent(one['held_out_real'])}" for one in cells)]
            )
        names = [name for name in (MODALITY, SIDE, FINDING, JOINT) if name in result["attributes"]]
        tables.append(Table("agreement by modality", ("", *names), rows))
    if unseen := result["unseen"]:
        title = f"agreement where the {unseen['not_in']} images never show modality, side and finding together"
        columns = ("", "samples", "real, held out", "chance: shuffled texts", "chance: commonest answer", "images")
        tables.append(Table(title, columns, _rows(unseen["attributes"]), "; ".join(unseen["combinations"])))
    return tables


def _warnings(result: dict[str, Any], attributes: Sequence[Attribute]) -> list[str]:
    held_out = {one.name: result["attributes"][one.name]["held_out_real"] for one in attributes}
    unsure = [name for name, real in held_out.items() if real is None or real["low"] <= real["majority"]]
    told = []
    if unsure:
        told.append(
            f"{', '.join(unsure)}: on held-out real images, the probe is not clearly better than the commonest "
            "answer, so it says nothing about the samples"
        )
    strange = [f"{one.name} ({one.strange})" for one in attributes if one.strange]
    if strange:
        told.append(f"samples of findings that hardly any reference image shows do not count: {', '.join(strange)}")
    return told
