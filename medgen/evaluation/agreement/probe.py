"""A classifier of real images, which says what others show; tried on real images that it did not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.evaluation.agreement.attributes import Attribute
from medgen.evaluation.agreement.declaration import ProbeOptions
from medgen.evaluation.agreement.scores import Answers, Flags, Rows
from medgen.evaluation.comparability import image_shape
from medgen.evaluation.segmentation.augment import augment
from medgen.evaluation.segmentation.options import SegmenterOptions
from medgen.evaluation.segmentation.pairs import seen_size
from medgen.evaluation.segmentation.segmenting import rate
from medgen.nets.classifier import Classifier
from medgen.nets.compute import exact_float32
from medgen.reporting import Advance, unseen

BATCH = 64
MOST = 20_000
"""Images of a set that are held in memory."""
VIEWS = SegmenterOptions(flips="none", rotation=5.0)
"""Small changes of place, size and contrast. Not mirrored: a mirrored image shows the other side."""


@dataclass(frozen=True)
class Shown:
    """The images of a set as the probe sees them, (N, C, h, w) in [-1, 1], and which of its slices they are, (N,)."""

    images: Tensor
    slices: Rows


def read_images(stored: StoredSet, side: int, advance: Advance = unseen) -> Shown:
    """The finite images, averaged down to a longest side of `side` pixels; of very many, `MOST` evenly spread."""
    images, slices = [], []
    chosen = np.linspace(0, stored.slices - 1, min(stored.slices, MOST)).astype(np.int64)
    for start in range(0, len(chosen), BATCH):
        rows = chosen[start : start + BATCH]
        values = seen_images(stored, rows.tolist(), side)
        finite = torch.isfinite(values).flatten(1).all(dim=1)
        images.append(values[finite])
        slices.append(rows[finite.numpy()])
        advance(len(rows))
    return Shown(torch.cat(images), np.concatenate(slices))


def seen_images(stored: StoredSet, rows: Sequence[int], side: int) -> Tensor:
    """Slices by number, in any order, (B, C, h, w) in [-1, 1] and averaged down to that longest side."""
    intensity = stored.header.intensity
    if intensity is None:
        raise DataError("the set does not say what its image values mean (no intensity); preprocess it again")
    values = torch.from_numpy(intensity.normalized(stored.read("image", rows)))
    height, width = image_shape(stored)[1:]
    size = seen_size(height, width, side)
    return values if size == (height, width) else F.interpolate(values, size, mode="area")


@dataclass(frozen=True)
class Lesson:
    """Real images and what their texts answer, some cases of which are held out: the probe is tried on these."""

    shown: Shown
    attributes: Sequence[Attribute]
    cases: Rows
    """The number of each image's case, (N,)."""
    held_out: Flags
    """Which images the probe does not learn from, (N,)."""

    @classmethod
    def of(cls, shown: Shown, attributes: Sequence[Attribute], cases: Rows, share: float, seed: int) -> Lesson:
        """From the number of each slice's case; a share of the cases is held out, at random."""
        cases = cases[shown.slices]
        order = np.random.default_rng([seed, 2]).permutation(np.unique(cases))
        drawn = order[: max(1, round(share * len(order)))]
        return cls(shown, attributes, cases, np.isin(cases, drawn))

    @property
    def said(self) -> Rows:
        """The answers of the texts, (N, questions)."""
        return np.stack([one.real for one in self.attributes], axis=1)[self.shown.slices]

    def teach(self, options: ProbeOptions, seed: int, device: torch.device, advance: Advance = unseen) -> Classifier:
        """A probe that learned from the images that are not held out."""
        taught = torch.from_numpy(~self.held_out)
        answers = torch.from_numpy(self.said)[taught]
        return learn(self.shown.images[taught], self.attributes, answers, options, seed, device, advance)

    def tried(self, probe: Classifier) -> Answers:
        """What the texts and the probe say of the images held out."""
        seen = answered(probe, self.shown.images[torch.from_numpy(self.held_out)])
        return Answers(self.said[self.held_out], seen, self.cases[self.held_out])


@exact_float32()
def learn(
    images: Tensor,
    attributes: Sequence[Attribute],
    answers: Tensor,
    options: ProbeOptions,
    seed: int,
    device: torch.device,
    advance: Advance = unseen,
) -> Classifier:
    """A classifier of images (N, C, h, w) with answers (N, questions); -1 is not learned from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(images.shape[1], [len(one.answers) for one in attributes], options.width)
    network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=0.01, fused=True)
    order = np.random.default_rng([seed, 0])
    for step in range(options.steps):
        rows = torch.from_numpy(order.integers(len(images), size=options.batch_size))
        unlabelled = torch.zeros(len(rows), *images.shape[2:], dtype=torch.uint8)
        views, _ = augment(images[rows], unlabelled, VIEWS, np.random.default_rng([seed, step, 1]))
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * rate(step / options.steps)
        optimizer.zero_grad(set_to_none=True)
        truth = answers[rows].to(device)
        losses = [
            F.cross_entropy(logits, truth[:, place], ignore_index=-1)
            for place, logits in enumerate(network(views.to(device)))
            if (truth[:, place] >= 0).any()
        ]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        advance(1)
    return network.eval().requires_grad_(False)


@torch.inference_mode()
@exact_float32()
def answered(network: Classifier, images: Tensor) -> Rows:
    """The likeliest answers (N, questions) for images (N, C, h, w)."""
    device = next(network.parameters()).device
    found = [
        torch.stack([logits.argmax(dim=1) for logits in network(part.to(device))], dim=1).cpu()
        for part in images.split(BATCH)  # type: ignore[no-untyped-call]
    ]
    return torch.cat(found).numpy()
