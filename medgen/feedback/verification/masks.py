"""Whether an image matches its mask, according to a segmenter trained on real pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from medgen.artifacts.label_maps import mask_names, told
from medgen.artifacts.schema import Case, SetHeader
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.evaluation.segmentation.options import SegmenterOptions
from medgen.evaluation.segmentation.overlap import agreement, agreement_of
from medgen.evaluation.segmentation.pairs import read_pairs, seen_size
from medgen.evaluation.segmentation.real_pairs import pairs_in
from medgen.evaluation.segmentation.segmenting import segment, train
from medgen.feedback.verification.findings import Finding
from medgen.nets.segmenter import Segmenter
from medgen.reporting import Progress

REACHED = 0.1
"""A mask passes with the Dice that all but this share of held-out real pairs reach."""
WORKS = 0.3
"""Dice of real pairs below which a segmenter tells nothing."""


@dataclass(frozen=True)
class MaskCheck:
    """A segmenter, its classes, and the least Dice (0 to 1) with which a mask passes."""

    segmenter: Segmenter
    names: tuple[str, ...]
    side: int
    least: float
    trust: dict[str, Any]

    @classmethod
    def learned(
        cls, reference: StoredSet, options: SegmenterOptions, seed: int, device: torch.device, progress: Progress
    ) -> MaskCheck:
        """A check trained on the train split of the reference and tested on its val and test cases.

        DataError if there are no such pairs, or if the segmenter works too badly on the test pairs.
        """
        real = pairs_in(reference)
        if real is None:
            raise DataError(
                "--reference: masks are verified by a segmenter trained on real pairs, which needs cases with masks in "
                "the split train, and others in val or test"
            )
        names = mask_names(reference.header)
        options = options.suited_to(names)
        with progress(real.training.slices + len(real.held_out), "real pairs") as advance:
            pairs = read_pairs(real.training, np.arange(real.training.slices), options.side, advance)
            held_out = read_pairs(reference, real.held_out, options.side, advance)
        with progress(options.steps, "steps of the segmenter") as advance:
            segmenter = train(pairs, len(names), options, seed=seed, device=device, advance=advance)
        found = agreement_of(segment(segmenter, held_out.images), held_out, len(names), in_mm=False).overall("dice")
        dice = found[np.isfinite(found)]
        if not len(dice) or dice.mean() < WORKS:
            mean = f"a Dice of {dice.mean():.2f}" if len(dice) else "no Dice, since no mask holds anything"
            raise DataError(
                f"--reference: the segmenter reaches {mean} on real pairs that it has not seen, too little to verify "
                "anything; give more real pairs"
            )
        least = float(np.quantile(dice, REACHED))
        trust = {"dice_of_real": round(float(dice.mean()), 4), "least_dice": round(least, 4), "real_pairs": len(dice)}
        return cls(segmenter, names, options.side, least, trust)

    def findings(self, case: Case, header: SetHeader) -> list[Finding]:
        """One finding for each slice; DataError for a case that cannot be measured."""
        if (names := mask_names(header)) != self.names:
            raise DataError(
                f"case {case.id}: its mask has {told(names)}, those of --reference {told(self.names)}; preprocess "
                "both with the same class names"
            )
        if header.intensity is None:
            raise DataError(f"case {case.id}: the set does not say what its image values mean")
        images, masks = torch.from_numpy(header.intensity.normalized(case["image"])), torch.from_numpy(case["mask"])
        height, width = images.shape[-2:]
        size = seen_size(height, width, self.side)
        if size != (height, width):
            images = F.interpolate(images, size, mode="area")
        labels = F.interpolate(masks, size, mode="nearest-exact")[:, 0].numpy()
        found = segment(self.segmenter, torch.nan_to_num(images))
        count = len(labels)
        agreed = agreement(found, labels, len(self.names), np.ones((count, 2)), np.arange(count))
        dice, wrongly = agreed.overall("dice"), agreed.overall("false_positive")
        return [self._finding(labels[row], found[row], dice[row], wrongly[row]) for row in range(count)]

    def _finding(self, asked: Any, found: Any, dice: float, wrongly: float) -> Finding:
        areas = [
            {name: round(float((one == value).mean()), 4) for value, name in enumerate(self.names) if value}
            for one in (asked, found)
        ]
        if not np.isfinite(dice):  # nothing was asked for
            return Finding("mask", areas[0], areas[1], {}, not wrongly)
        return Finding("mask", areas[0], areas[1], {"dice": round(float(dice), 4)}, bool(dice >= self.least))
