"""What the faithfulness to masks needs, and its options."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from medgen.config import Options
from medgen.evaluation.declaration import Metric
from medgen.evaluation.segmentation.needs import PAIRS, generated
from medgen.evaluation.segmentation.options import SegmenterOptions


class MasksOptions(Options, frozen=True):
    """How images are compared with the masks that they were made from."""

    segmenter: SegmenterOptions = SegmenterOptions(width=12, steps=600, batch_size=8)
    shown: Annotated[int, Meta(ge=1)] = 4
    """Images per gallery."""


MASKS = Metric(
    "masks",
    "Masks asks whether each image matches its mask. A small segmenter learns from the real pairs of --training, or of "
    "the train split of --reference. It then segments the images, and held-out real images (val and test) for "
    "comparison.",
    PAIRS,
    ("reference", "training"),
    MasksOptions,
    unasked=generated,
)
