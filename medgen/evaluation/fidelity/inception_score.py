"""The Inception Score (Salimans et al. 2016): exp of the mean divergence of p(y|x) from p(y)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SPLITS = 10
LEAST = 100
"""Images a split below which there are fewer splits."""


def inception_score(probabilities: Tensor, order: npt.NDArray[np.int64]) -> tuple[float, float, int]:
    """Mean and standard deviation over the splits of probabilities (N, K) in the given order, and their number."""
    splits = max(1, min(SPLITS, len(probabilities) // LEAST))
    scores = [score(part) for part in probabilities.double()[torch.from_numpy(order)].tensor_split(splits)]
    return float(np.mean(scores)), float(np.std(scores)), splits


def score(probabilities: Tensor) -> float:
    """The score of all rows (N, K) together: between 1 and K."""
    p = probabilities.double()
    return float((entropy(p.mean(0)) - entropy(p).mean()).exp())


def weighted_scores(probabilities: Tensor, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The scores (B,) where each row (N, K) counts as often as weights (B, N) say."""
    p, w = probabilities.double(), torch.from_numpy(weights)
    w = w / w.sum(1, keepdim=True)
    return np.asarray((entropy(w @ p) - w @ entropy(p)).exp().numpy())


def entropy(probabilities: Tensor) -> Tensor:
    """In nats, over the last axis; a probability of 0 adds nothing."""
    nats: Tensor = -torch.special.xlogy(probabilities, probabilities).sum(-1)
    return nats
