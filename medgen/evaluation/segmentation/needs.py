"""The needs of metrics that train a segmenter on real pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medgen.evaluation.declaration import Need

if TYPE_CHECKING:
    from medgen.evaluation.inputs import Inputs


def has_masks(inputs: Inputs) -> bool:
    """Whether the set holds images with masks."""
    return inputs.stored.header.kind == "image" and inputs.stored.has("mask")


def generated(inputs: Inputs) -> bool:
    """Whether a model generated all images from noise."""
    from medgen.artifacts.schema import GENERATED

    return all(row.synthetic == GENERATED for row in inputs.stored.cases)


def _has_real_masks(inputs: Inputs) -> bool:
    return inputs.reference is not None and inputs.reference.has("mask")


def _has_real_pairs(inputs: Inputs) -> bool:
    from medgen.evaluation.segmentation.real_pairs import real_pairs

    return real_pairs(inputs) is not None


PAIRS = (
    Need(has_masks, "needs images with masks: generate them with --mask, or preprocess with --masks"),
    Need(_has_real_masks, "needs real images with masks: give --reference SET, preprocessed with --masks"),
    Need(
        _has_real_pairs,
        "needs real pairs to learn from and others to test on: give a --reference with cases in the split train (or "
        "--training SET) and others in val or test",
    ),
)
