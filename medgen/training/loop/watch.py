"""Notice a training that has failed: at a loss or gradient that is not finite, or a loss that has run away."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from medgen.errors import DataError
from medgen.training.loop.distributed import World

RUNAWAY = 10.0
"""Multiple of the running median that a loss must exceed to count as run away..."""
PATIENCE = 25
"""... for this many steps on end."""
HISTORY = 200
"""Steps that the running median looks back."""


class TrainingFailed(DataError):
    """The loss or gradient is not finite, or diverged; the last good state is still there."""


class Watch:
    """Collect each step's figures on the device, and judge them when asked, so that a GPU is seldom waited for."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._noted: list[tuple[int, dict[str, Tensor]]] = []
        self._checked: list[dict[str, float]] = []
        self._history: deque[float] = deque(maxlen=HISTORY)
        self._streak = 0

    @property
    def suspicious(self) -> bool:
        """Whether the latest loss ran away, so that its weights should not replace good ones."""
        return self._streak > 0

    def note(self, index: int, figures: dict[str, Tensor]) -> None:
        """Take the figures of step `index` (from 0), scalars, of which "loss" and "gradient_norm" are judged."""
        self._noted.append((index, figures))

    def check(self, explain: Callable[[int], str]) -> None:
        """Judge all steps noted; TrainingFailed names the first bad one, with the reason `explain(index)` finds."""
        if not self._noted:
            return
        indices = [index for index, _ in self._noted]
        names = list(self._noted[0][1])
        table = torch.stack([torch.stack([figures[name].float() for name in names]) for _, figures in self._noted])
        self._noted.clear()
        rows = self._world.mean(table.double().cpu()).tolist()
        for index, row in zip(indices, rows, strict=True):
            figures = dict(zip(names, row, strict=True))
            for name in ("loss", "gradient_norm"):
                if not np.isfinite(figures[name]):
                    what = name.replace("_", " ")
                    raise TrainingFailed(f"step {index + 1}: the {what} is {figures[name]}: {explain(index)}")
            self._follow(index, figures["loss"], explain)
            self._checked.append(figures)

    def means(self) -> dict[str, float]:
        """Mean of each figure over the checked steps since the last call."""
        rows, self._checked = self._checked, []
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}

    def _follow(self, index: int, loss: float, explain: Callable[[int], str]) -> None:
        median = float(np.median(self._history)) if len(self._history) >= PATIENCE else 0.0
        self._streak = self._streak + 1 if 0 < median * RUNAWAY < loss else 0
        self._history.append(loss)
        if self._streak >= PATIENCE:
            raise TrainingFailed(
                f"step {index + 1}: diverged: for {PATIENCE} steps the loss has been more than {RUNAWAY:g} times its "
                f"running median, and is {loss:.4g} now: {explain(index)}"
            )
