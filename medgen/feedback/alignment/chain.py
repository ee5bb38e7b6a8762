"""Alignments in a row, each of the model that the one before wrote: they share one bound."""

from __future__ import annotations

from medgen import __version__
from medgen.artifacts.model_file import Model
from medgen.artifacts.stored import StoredSet
from medgen.feedback.alignment.align_options import AlignOptions, DDPOOptions

ALIKE = ("check_images", "sampler", "sampling_steps")
"""Options by which distances compare."""


def first_distance(model: Model, reference: StoredSet, options: AlignOptions) -> float | None:
    """The Frechet distance before the first of the alignments that led to a model, if the last one measured alike.

    None if no alignment made the model, or it was held against another reference, or drew its images otherwise.
    """
    step, found = model.provenance.steps[-1], model.facts.get("frechet_first")
    if step.command != "align" or step.version != __version__ or not isinstance(found, float):
        return None
    held_against = {name: digest for name, digest in model.digests().items() if name in step.inputs[:1]}
    drawn = [step.config.get(name) for name in ALIKE] == [getattr(options, name) for name in ALIKE]
    ancestral = step.config.get("method") == "ddpo", isinstance(options, DDPOOptions)
    alike = held_against == {reference.provenance.id: reference.tail.digest} and drawn and len(set(ancestral)) == 1
    return found if alike else None
