"""Do images show what their texts say: by a probe, by a model of images and texts, and how much do they vary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medgen.artifacts.stored import StoredSet
from medgen.evaluation.agreement.by_probe import by_probe, texts_of
from medgen.evaluation.agreement.clip import ImageTextModel, clip_scores, clip_table
from medgen.evaluation.agreement.declaration import AgreementOptions
from medgen.evaluation.agreement.probe import seen_images
from medgen.evaluation.agreement.variety import variety, variety_table
from medgen.evaluation.inputs import Inputs
from medgen.evaluation.section import Section, Table

LARGEST = 256
"""Longest side at which images are compared with each other."""


def measure(inputs: Inputs, options: AgreementOptions) -> Section:
    """All that the inputs allow."""
    model = ImageTextModel(Path(options.clip), inputs.device) if options.clip else None  # first, as it may fail
    section = by_probe(inputs, options)
    sets = {"samples": inputs.stored, "real": inputs.reference}
    with_texts = {name: one for name, one in sets.items() if one is not None and one.has("text")}
    result, tables, warnings = dict(section.result), list(section.tables), list(section.warnings)
    found: dict[str, Any] = {name: _variety(one, inputs.seed) for name, one in with_texts.items()}
    result["variety"] = found
    if found["samples"] is not None:
        tables.append(variety_table(found["samples"], found.get("real")))
    result["clip"] = None
    if model is not None:
        result["clip"], table = _clip(inputs, with_texts, model)
        tables.append(table)
        warnings += _cut(with_texts, model)
    return replace(section, result=result, tables=tables, warnings=warnings)


def _variety(stored: StoredSet, seed: int) -> dict[str, Any] | None:
    return variety(texts_of(stored).texts, lambda rows: seen_images(stored, rows, LARGEST), seed)


def _cut(sets: Mapping[str, StoredSet], model: ImageTextModel) -> Iterator[str]:
    """Warnings of texts that the model reads in part."""
    for name, stored in sets.items():
        texts = list(filter(None, stored.texts("text")))
        if count := model.cut(texts):
            yield (
                f"--clip reads {model.length} pieces of words: the ends of {count} of {len(texts)} texts "
                f"({'samples' if name == 'samples' else 'real images'}) do not count in its score"
            )


def _clip(inputs: Inputs, sets: dict[str, StoredSet], model: ImageTextModel) -> tuple[dict[str, Any], Table]:
    found = {}
    with inputs.progress(sum(one.slices for one in sets.values()), "slices") as advance:
        for name, one in sets.items():
            texts = texts_of(one)
            found[name] = clip_scores(model, one, texts.texts, texts.cases, inputs.seed, advance)
    return found, clip_table(found["samples"], found.get("real"))
