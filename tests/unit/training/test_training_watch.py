"""Steps that are not finite, and losses that run away."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from medgen.training.loop.distributed import World
from medgen.training.loop.watch import HISTORY, LEFT_OUT, PATIENCE, TrainingFailed, Watch


def figures(loss: float = 1.0, norm: float = 1.0, left_out: bool = False, **more: float) -> dict[str, torch.Tensor]:
    values = {"loss": loss, "gradient_norm": norm, "left_out": float(left_out), **more}
    return {name: torch.tensor(value) for name, value in values.items()}


def watch(warnings: list[str] | None = None, *, faulty: int = -1, left_out: Sequence[int] = ()) -> Watch:
    """A watch over steps of which the data of one may be at fault."""
    fault = lambda index: f"the data of {index}" if index == faulty else None  # noqa: E731
    told: list[str] = [] if warnings is None else warnings
    return Watch(World(), fault, lambda found: f"because of {found}", told.append, left_out)


NOT_FINITE = [figures(math.nan, math.nan, True), figures(math.inf, math.nan, True), figures(1.0, math.inf, True)]


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_a_few_steps_are_left_out_and_one_more_is_named_however_late_it_is_looked_at(bad: dict) -> None:
    warnings: list[str] = []
    watching = watch(warnings)
    for index in range(10):
        watching.note(index, bad if index >= 6 else figures())
    with pytest.raises(
        TrainingFailed, match=r"step 10: the (loss|gradient norm) is (nan|inf), the 4th time .*: because"
    ):
        watching.check()
    assert watching.left_out == [6, 7, 8]
    assert [line.split(":")[0] for line in warnings] == ["step 7", "step 8", "step 9"]
    assert warnings[2].endswith("though the data are sound; it is left out (3 so far)")


def test_far_apart_they_never_end_a_training() -> None:
    watching = watch(left_out=[0] * LEFT_OUT)
    for index in range(1, 5):
        watching.note(index * HISTORY, NOT_FINITE[0])
        watching.check()
    assert len(watching.left_out) == LEFT_OUT + 4
    watching.note(4 * HISTORY + 1, figures(3.0))
    watching.check()
    assert watching.means() == {"loss": 3.0, "gradient_norm": 1.0, "steps_left_out": LEFT_OUT + 4}


def test_those_before_a_stop_count() -> None:
    watching = watch(left_out=[5, 6, 7])
    watching.note(8, NOT_FINITE[0])
    with pytest.raises(TrainingFailed, match="step 9: the loss is nan, the 4th time"):
        watching.check()


def test_data_at_fault_end_it_at_once() -> None:
    watching = watch(faulty=2)
    watching.note(2, NOT_FINITE[0])
    with pytest.raises(TrainingFailed, match="step 3: the loss is nan: because of the data of 2"):
        watching.check()


def test_so_does_a_loss_whose_step_was_taken() -> None:
    watching = watch()
    watching.note(2, figures(math.inf, 1.0))
    with pytest.raises(TrainingFailed, match="step 3: the loss is inf: because of None"):
        watching.check()


def test_a_discriminator_that_is_not_finite_is_named() -> None:
    warnings: list[str] = []
    watching = watch(warnings)
    watching.note(0, figures(left_out=True))
    watching.check()
    assert warnings[0].startswith("step 1: the discriminator's gradient is not finite")


def test_a_scale_too_large_for_float16_is_no_failure_until_it_cannot_fall() -> None:
    warnings: list[str] = []
    watching = watch(warnings)
    for index, scale in enumerate((65536.0, 32768.0, 16384.0, 8192.0, 4096.0)):
        watching.note(index, figures(1.0, math.inf, True, loss_scale=scale))
    watching.check()
    assert (watching.left_out, warnings, watching.means()) == ([], [], {})
    watching.note(5, figures(1.0, math.inf, True, loss_scale=1.0))
    watching.check()
    assert watching.left_out == [5]


def test_a_runaway_loss_is_told_from_single_outliers() -> None:
    watching = watch()
    for index in range(200):
        watching.note(index, figures(50.0 if index % 10 == 9 else 1.0))
        watching.check()
        assert watching.suspicious == (index % 10 == 9 and index >= PATIENCE)
    with pytest.raises(TrainingFailed, match=f"step {199 + PATIENCE}: diverged"):
        for index in range(200, 400):
            watching.note(index, figures(50.0))
            watching.check()


def test_means_cover_the_steps_since_they_were_last_asked_for() -> None:
    watching = watch()
    for index, loss in enumerate((1.0, 3.0)):
        watching.note(index, figures(loss))
    watching.check()
    assert watching.means() == {"loss": 2.0, "gradient_norm": 1.0}
    assert watching.means() == {}
