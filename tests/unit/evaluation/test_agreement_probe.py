"""The probe sees findings that are small beside the light and shade of the image around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medgen.evaluation.agreement.attributes import Attribute
from medgen.evaluation.agreement.declaration import ProbeOptions
from medgen.evaluation.agreement.probe import answered, learn
from medgen.nets.classifier import Classifier

SIDE = 24


def discs(count: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """Discs of any brightness on black, (N, 1, H, W) in [-1, 1]; every other one has four darker pixels."""
    random = np.random.default_rng(seed)
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) / (SIDE / 2)
    shade = random.uniform(-0.3, 0.3, (2, count, 1, 1))
    light = random.uniform(0.2, 0.9, (count, 1, 1)) + shade[0] * x + shade[1] * y
    images = np.where(np.hypot(x, y) < 0.9, light, -1.0)
    answers = np.arange(count) % 2
    for number, (row, column) in enumerate(random.integers(6, SIDE - 8, (count, 2))):
        images[number, row : row + 2, column : column + 2] -= 0.3 * answers[number]
    return torch.from_numpy(images[:, None]).float().clamp(-1, 1), answers


def test_a_finding_of_four_pixels_is_learned() -> None:
    images, answers = discs(240, seed=0)
    attribute = Attribute("finding", ("none", "spot"), answers, answers)
    options = ProbeOptions(width=8, steps=250)
    probe = learn(images, [attribute], torch.from_numpy(answers)[:, None], options, 0, torch.device("cpu"))
    fresh, truth = discs(200, seed=1)
    assert (answered(probe, fresh)[:, 0] == truth).mean() > 0.85


@pytest.mark.parametrize("shape", [(16, 16), (1, 40), (33, 7)])
def test_images_of_any_shape_are_answered(shape: tuple[int, int]) -> None:
    first, second = Classifier(3, [2, 5], 4)(torch.zeros(2, 3, *shape))
    assert (first.shape, second.shape) == ((2, 2), (2, 5))
