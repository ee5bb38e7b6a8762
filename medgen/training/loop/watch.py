"""Detect a failing training: losses or gradients that are not finite, or a loss that diverges."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

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
LEFT_OUT = 3
"""Steps among the last `HISTORY` that may be left out, since a single one says nothing of the training."""


class TrainingFailed(DataError):
    """Losses or gradients are not finite, or diverged; the last good state is kept."""


class Watch:
    """Collect each step's figures on the device and judge them on request, so that nothing often waits for a GPU.

    `fault` names what is wrong with the data of a step, None if nothing is; `advise` turns such a fault, or None,
    into advice. `left_out` are the numbers of steps skipped earlier.
    """

    def __init__(
        self,
        world: World,
        fault: Callable[[int], str | None],
        advise: Callable[[str | None], str],
        warn: Callable[[str], None],
        left_out: Sequence[int] = (),
    ) -> None:
        self.left_out = list(left_out)
        self._world, self._fault, self._advise, self._warn = world, fault, advise, warn
        self._noted: list[tuple[int, dict[str, Tensor]]] = []
        self._checked: list[dict[str, float]] = []
        self._history: deque[float] = deque(maxlen=HISTORY)
        self._streak = 0

    @property
    def suspicious(self) -> bool:
        """Whether the latest loss diverged, so that its weights should not replace good ones."""
        return self._streak > 0

    def note(self, index: int, figures: dict[str, Tensor]) -> None:
        """Take the figures of step `index` (from 0), scalars: "loss", "gradient_norm", "left_out" and any others."""
        self._noted.append((index, figures))

    def check(self) -> None:
        """Judge all steps noted; TrainingFailed names the one at which the training failed, why, and what to do.

        A step that was left out because its gradient was not finite is counted, with a warning, unless its data are
        at fault or it is one of many.
        """
        if not self._noted:
            return
        indices = [index for index, _ in self._noted]
        names = list(self._noted[0][1])
        table = torch.stack([torch.stack([figures[name].float() for name in names]) for _, figures in self._noted])
        self._noted.clear()
        rows = self._world.mean(table.double().cpu()).tolist()
        for index, row in zip(indices, rows, strict=True):
            figures = dict(zip(names, row, strict=True))
            left_out = figures.pop("left_out") > 0
            if left_out and np.isfinite(figures["loss"]) and figures.get("loss_scale", 1.0) > 1:
                continue  # only the scale was too large for float16; it has been halved
            if left_out or not np.isfinite(figures["loss"]):
                self._leave_out(index, figures, left_out)
            else:
                self._follow(index, figures["loss"])
                self._checked.append(figures)

    def means(self) -> dict[str, float]:
        """Mean of each figure over the steps checked since the last call, and how many steps were skipped in all."""
        rows, self._checked = self._checked, []
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}
        return means | ({"steps_left_out": len(self.left_out)} if self.left_out else {})

    def _leave_out(self, index: int, figures: dict[str, float], left_out: bool) -> None:
        bad = [name for name in ("loss", "gradient_norm") if not np.isfinite(figures[name])]
        what = (
            f"the {bad[0].replace('_', ' ')} is {figures[bad[0]]}"
            if bad
            else "the discriminator's gradient is not finite"
        )
        fault = self._fault(index)
        recent = sum(index - before < HISTORY for before in self.left_out)
        if fault or not left_out or recent >= LEFT_OUT:
            again = f", the {recent + 1}th time within {HISTORY} steps" if recent >= LEFT_OUT else ""
            raise TrainingFailed(f"step {index + 1}: {what}{again}: {self._advise(fault)}")
        self.left_out.append(index)
        self._warn(f"step {index + 1}: {what}, though the data are sound; it is left out ({len(self.left_out)} so far)")

    def _follow(self, index: int, loss: float) -> None:
        median = float(np.median(self._history)) if len(self._history) >= PATIENCE else 0.0
        self._streak = self._streak + 1 if 0 < median * RUNAWAY < loss else 0
        self._history.append(loss)
        if self._streak >= PATIENCE:
            raise TrainingFailed(
                f"step {index + 1}: diverged: for {PATIENCE} steps the loss has been more than {RUNAWAY:g} times its "
                f"running median, and is {loss:.4g} now: {self._advise(self._fault(index))}"
            )
