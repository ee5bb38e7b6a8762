"""Figures of evaluation against torchmetrics, on the same images and the same features: neither runs a network."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from medgen.artifacts.schema import Intensity
from medgen.evaluation.features.features import Features
from medgen.evaluation.fidelity.frechet import frechet_between
from medgen.evaluation.fidelity.kernel_distance import subset_distances
from medgen.evaluation.reconstruction.pair_scores import PairScores, Place
from medgen.nets.perception.similarity import ms_ssim, ssim

from .table import OURS, Contest

THEIRS = "torchmetrics"


@dataclass(frozen=True)
class Figures:
    """How much is measured."""

    images: int = 16
    side: int = 256
    features: int = 768
    few: int = 500
    """Feature vectors a side, fewer than features."""
    many: int = 2000
    subsets: int = 20


class Given(nn.Module):
    """Stands in for the feature network: what comes in are features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, x: Tensor) -> Tensor:
        return x


def evaluation_contests(size: Figures) -> Iterator[Contest]:
    """Similarity of pairs, then distances of distributions."""
    from torchmetrics.functional import image as theirs

    a = torch.rand(size.images, 1, size.side, size.side)
    b = (a + 0.1 * torch.randn_like(a)).clamp(0, 1)
    pairs = f"{size.images} pairs of {size.side} x {size.side}"
    their_ssim, their_ms_ssim = (
        theirs.structural_similarity_index_measure,
        theirs.multiscale_structural_similarity_index_measure,
    )

    def our_scores() -> PairScores:
        scores = PairScores(Intensity(1.0, 0.0, "HU", (-1000.0, 400.0)))
        scores.add(2 * a - 1, 2 * b - 1, [Place(str(i), i) for i in range(size.images)])
        return scores

    def their_scores() -> list[Tensor]:
        each = {"data_range": 1.0, "reduction": "none"}
        psnr = theirs.peak_signal_noise_ratio(a, b, dim=(1, 2, 3), **each)
        return [psnr, their_ssim(a, b, **each), their_ms_ssim(a, b, **each)]

    yield Contest(
        f"SSIM, {pairs}",
        "float32, both",
        {OURS: lambda: ssim(a, b, 1.0).mean(), THEIRS: lambda: their_ssim(a, b, data_range=1.0)},
    )
    yield Contest(
        f"MS-SSIM, {pairs}",
        "float32, both",
        {OURS: lambda: ms_ssim(a, b, 1.0).mean(), THEIRS: lambda: their_ms_ssim(a, b, data_range=1.0)},
    )
    yield Contest(
        f"PSNR, SSIM, MS-SSIM, {pairs}",
        "defaults (medgen: float64, also MSE and MAE)",
        {OURS: our_scores, THEIRS: their_scores},
    )
    for count in (size.few, size.many):
        x, y = torch.randn(count, size.features), torch.randn(count, size.features) + 0.1
        yield Contest(
            f"Frechet distance, 2 x {count} of {size.features} features",
            "float64, both",
            {OURS: lambda x=x, y=y: frechet_between(x, y), THEIRS: lambda x=x, y=y: _their_frechet(x, y)},
        )
    yield Contest(
        f"kernel distance of these, {size.subsets} subsets of {size.few}",
        "defaults (medgen: float64)",
        {
            OURS: lambda: subset_distances(
                _features(x), _features(y), size.subsets, size.few, np.random.default_rng(0)
            ).mean(),
            THEIRS: lambda: _their_kernel_distance(x, y, size),
        },
    )


def _features(values: Tensor) -> Features:
    """Each from a case of its own."""
    numbers = np.arange(len(values))
    return Features(values, numbers, numbers)


def _their_frechet(x: Tensor, y: Tensor) -> Tensor:
    from torchmetrics.image.fid import FrechetInceptionDistance

    distance = FrechetInceptionDistance(feature=Given(x.shape[1]))
    distance.update(x, real=True)
    distance.update(y, real=False)
    result: Tensor = distance.compute()
    return result


def _their_kernel_distance(x: Tensor, y: Tensor, size: Figures) -> Tensor:
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it holds all features in memory
        distance = KernelInceptionDistance(feature=Given(x.shape[1]), subsets=size.subsets, subset_size=size.few)
    distance.update(x, real=True)
    distance.update(y, real=False)
    mean: Tensor = distance.compute()[0]
    return mean
