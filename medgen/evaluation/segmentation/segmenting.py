"""Training and running the segmenter."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from medgen.evaluation.segmentation.augment import augment
from medgen.evaluation.segmentation.options import SegmenterOptions
from medgen.evaluation.segmentation.pairs import Pairs
from medgen.nets.compute import exact_float32
from medgen.nets.segmenter import Segmenter
from medgen.reporting import Advance, unseen

Rows = npt.NDArray[np.int64]
Draw = Callable[[int, np.random.Generator], Rows]
"""From the step and a source of randomness to the pairs of its batch."""

BATCH = 32
WARM_UP = 0.1
"""Share of the steps over which the learning rate rises."""
SMOOTH = 1.0
"""Pixels added above and below the soft Dice: without any in a batch, nothing is to be gained."""


@exact_float32()
def train(
    pairs: Pairs,
    classes: int,
    options: SegmenterOptions,
    *,
    seed: int,
    device: torch.device | None = None,
    draw: Draw | None = None,
    advance: Advance = unseen,
) -> Segmenter:
    """A segmenter trained for `options.steps` steps on batches from `draw` (None: all pairs equally often).

    The same seed means the same first weights and the same augmentation, whichever pairs are drawn.
    """
    target = device or torch.device("cpu")
    drawn = draw or (lambda step, random: random.integers(len(pairs), size=options.batch_size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Segmenter(pairs.images.shape[1], classes, options.width)
    network.to(target).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=options.learning_rate, fused=True)
    for step in range(options.steps):
        rows = torch.from_numpy(drawn(step, np.random.default_rng([seed, step, 0])))
        views = augment(pairs.images[rows], pairs.labels[rows], options, np.random.default_rng([seed, step, 1]))
        images, labels = (view.to(target) for view in views)
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * rate(step / options.steps)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        advance(1)
    return network.eval().requires_grad_(False)


def rate(done: float) -> float:
    """Learning rate, as a share of the highest, after a share `done` of the steps: a rise, then half a cosine."""
    if done < WARM_UP:
        return max(done / WARM_UP, 0.1)
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, and 1 - soft Dice over the classes but the background (Milletari et al. 2016), of a batch.

    logits (B, K, H, W), labels (B, H, W).
    """
    logs = logits.log_softmax(dim=1)
    truth = F.one_hot(labels.long(), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    found = logs.exp()
    overlap = (found * truth).sum(dim=(0, 2, 3))[1:]
    whole = (found + truth).sum(dim=(0, 2, 3))[1:]
    dice = (2 * overlap + SMOOTH) / (whole + SMOOTH)
    return (1 - dice).mean() - (logs * truth).sum(dim=1).mean()


@torch.inference_mode()
@exact_float32()
def segment(network: Segmenter, images: Tensor) -> npt.NDArray[np.uint8]:
    """The likeliest class of each pixel, (N, H, W), of images (N, C, H, W) in [-1, 1]."""
    device = next(network.parameters()).device
    found = [network(part.to(device)).argmax(dim=1).to(torch.uint8).cpu() for part in images.split(BATCH)]  # type: ignore[no-untyped-call]
    return torch.cat(found).numpy()
