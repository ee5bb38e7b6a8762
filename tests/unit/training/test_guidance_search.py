"""The search for the scale of guidance: it finds one that is known to be best, and keeps to its share of the work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from medgen.artifacts.model_file import open_model
from medgen.diffusion.options import Objective, ScheduleConfig
from medgen.diffusion.schedules import Schedule
from medgen.models.facts import DenoiserFacts
from medgen.nets.condition import Condition
from medgen.nets.options import TextConfig, UNetConfig
from medgen.nets.unet import UNet
from medgen.reporting import Silent
from medgen.training.data.step import Batch, Step
from medgen.training.learners import guidance_search
from medgen.training.learners.diffusion import train_diffusion
from medgen.training.learners.diffusion_options import TrainDiffusionOptions
from medgen.training.learners.guidance_search import affordable, described, search
from medgen.training.learners.guided import GuidedLearner
from medgen.training.loop.learner import Parts
from medgen.training.loop.loop import Loop
from medgen.training.loop.run import Run

SCHEDULE = Schedule(ScheduleConfig(kind="cosine"))
SIDE = 16
SPREAD = 0.1
"""Of an image's pixels around what the condition asks for."""
STRIPES = torch.linspace(0, 6.28, SIDE).sin().expand(1, SIDE, SIDE)


class Timid(nn.Module):
    """The exact noise prediction for images of stripes, of which it dares only a share `shown`."""

    def __init__(self, shown: float) -> None:
        super().__init__()
        self.shown, self.calls, self.config = shown, 0, UNetConfig()

    def prepared(self, condition: Condition) -> Condition:
        return condition

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.calls += len(x)
        assert condition.vector is not None
        there = torch.ones(len(x)) if condition.present is None else condition.present.float()
        mean = self.shown * (there * condition.vector[:, 0])[:, None, None, None] * STRIPES
        alpha, sigma = SCHEDULE.alpha_sigma_for(x, t)
        return sigma * (x - alpha * mean) / (sigma**2 + (alpha * SPREAD) ** 2)


class Toy(GuidedLearner):
    def __init__(self, shown: float) -> None:
        self.schedule, self.timid = SCHEDULE, Timid(shown)

    @property
    def network(self) -> UNet:
        return cast(UNet, self.timid)

    @property
    def objective(self) -> Objective:
        return "eps"

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Parts]:
        raise NotImplementedError


class Validation:
    def __len__(self) -> int:
        return 64

    def at(self, positions: range) -> Batch:
        random = torch.Generator().manual_seed(positions.start)
        vector = torch.rand(len(positions), 1, generator=random)
        noise = torch.randn(len(positions), 1, SIDE, SIDE, generator=random)
        return {"x": vector[:, :, None, None] * STRIPES + SPREAD * noise, "vector": vector}


def loop(steps: int = 2000) -> Loop:
    options = SimpleNamespace(batch_size=16, steps=steps)
    return cast(
        Loop,
        SimpleNamespace(
            options=options, total=16, seed=0, validation=Validation(), reporter=Silent(), device=torch.device("cpu"),
            dtype=torch.float32, averaged=contextlib.nullcontext, on_device=lambda batch: batch,
        ),
    )  # fmt: skip


@pytest.mark.parametrize(("shown", "best"), [(1.0, 1.0), (0.5, 2.0), (1 / 3, 3.0)])
def test_a_network_that_shows_a_share_of_what_is_asked_wants_the_inverse_as_its_scale(
    shown: float, best: float
) -> None:
    found = search(loop(), Toy(shown))
    assert found is not None
    assert found.scale == best
    assert found.samples == 64
    assert f"guidance {best:g} suits best" in found.told()


def test_the_search_calls_the_network_no_more_than_its_share_of_the_training_allows() -> None:
    toy = Toy(0.5)
    for steps in (900, 1000, 2000):
        toy.timid.calls = 0
        search(loop(steps), toy)
        assert toy.timid.calls <= guidance_search.SHARE * guidance_search.BACKWARD * steps * 16
    assert affordable(loop(900)) < guidance_search.FEWEST
    toy.timid.calls = 0
    assert search(loop(900), toy) is None
    assert toy.timid.calls == 0


def test_texts_count_by_their_pieces_whatever_their_order_and_padding() -> None:
    network = UNetConfig(context_width=64, text=TextConfig(vocabulary=64), modalities=2)
    one = Condition(words=torch.tensor([[1, 5, 9, 2, 0, 0]]), modality=torch.tensor([1]))
    same = Condition(words=torch.tensor([[1, 9, 5, 2]]), modality=torch.tensor([1]))
    other = Condition(words=torch.tensor([[1, 9, 9, 2]]), modality=torch.tensor([1]))
    elsewhere = Condition(words=one.words, modality=torch.tensor([2]))
    rows = [described(condition, network) for condition in (one, same, other, elsewhere)]
    assert torch.equal(rows[0], rows[1])  # type: ignore[arg-type]
    assert len({tuple(row[0].tolist()) for row in rows if row is not None}) == 3
    assert described(Condition(), network) is None


def test_training_stores_the_scale_and_the_ranges_and_the_same_bytes_each_time(
    latents: Path,
    run_of: Callable[..., Run],
    small_diffusion: Callable[..., TrainDiffusionOptions],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"FEWEST": 2, "MOST": 8, "SHARE": 50.0, "STEPS": 2}.items():
        monkeypatch.setattr(guidance_search, name, value)
    options = small_diffusion({"steps": 3})
    trained = {"first": options, "second": options, "without": replace(options, search_guidance=False)}
    files = []
    for name, changed in trained.items():
        run = run_of("train-diffusion", latents, f"{name}.safetensors")
        train_diffusion(run, changed)
        files.append(run.output)
    found, _, without = (DenoiserFacts.read(open_model(file).facts, str(file)) for file in files)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert found.guidance in guidance_search.SCALES
    assert found.guidance_range == (1.0, 5.0)
    assert found.vector_range == ((0.0, 1.0), (0.0, 0.0))
    assert found.spacing_range == ((1.0, 1.0), (1.0, 1.0), (1.0, 1.0))
    assert (without.guidance, without.guidance_range) == (None, None)
