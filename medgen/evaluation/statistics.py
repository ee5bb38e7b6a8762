"""Small statistics of results: a correlation, a median, a mean of whole results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


def correlation(a: Values, b: Values) -> dict[str, float] | None:
    """Pearson's and Spearman's coefficient of a and b (N,); None where one side does not vary."""
    from scipy import stats

    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return {"pearson": float(stats.pearsonr(a, b).statistic), "spearman": float(stats.spearmanr(a, b).statistic)}


def median(values: Values) -> float | None:
    """The median; None for no values."""
    return float(np.median(values)) if len(values) else None


def mean_of_results(results: Sequence[Any]) -> Any:
    """The mean of results of equal structure, number by number; None where all are None."""
    known = [result for result in results if result is not None]
    if not known:
        return None
    if isinstance(known[0], dict):
        return {name: mean_of_results([result[name] for result in known]) for name in known[0]}
    return float(np.mean(known))
