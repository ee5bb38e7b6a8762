"""Sheets of pictures during training: every learner has some, and a training with them is the training without."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from PIL import Image

from medgen.training.learners.denoiser import DenoiserLearner
from medgen.training.learners.diffusion import train_diffusion
from medgen.training.learners.diffusion_options import TrainDiffusionOptions
from medgen.training.learners.vae import train_vae
from medgen.training.learners.vae_options import TrainVAEOptions
from medgen.training.loop.ema import MovingAverage
from medgen.training.loop.learner import Shown
from medgen.training.loop.pictures import Pictures
from medgen.training.loop.resume import resume_path
from medgen.training.loop.run import Run
from tests.unit.training.conftest import Reporter
from tests.unit.training.test_interpolator import options_of as interpolator_options
from tests.unit.training.test_interpolator import write_thin
from tests.unit.training.test_normalizer_learner import options_of as normalizer_options
from tests.unit.training.test_siamese_learner import options_of as siamese_options
from tests.unit.training.test_siamese_learner import write_pairs

RunOf = Callable[..., Run]
Train = tuple[Callable[..., None], str, Path, Any]


@pytest.fixture(params=["denoiser", "vae", "siamese", "normalizer", "interpolator"])
def training(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tiny: Path,
    images: Path,
    latents: Path,
    small_vae: Callable[..., TrainVAEOptions],
    small_diffusion: Callable[..., TrainDiffusionOptions],
) -> Train:
    """A command, its set and its options, for each learner; with dropout, which draws from the global generator."""
    kind = request.param
    if kind == "vae":
        return train_vae, "train-vae", images, small_vae()
    source, options = latents, small_diffusion()
    if kind == "siamese":
        source, options = write_pairs(tmp_path / "pairs.h5"), siamese_options()
    elif kind == "normalizer":
        source, options = write_pairs(tmp_path / "pairs.h5", masks=False), normalizer_options()
    elif kind == "interpolator":
        source, options = write_thin(tmp_path / "thin.h5"), interpolator_options(tiny)
    return train_diffusion, "train-diffusion", source, replace(options, network=replace(options.network, dropout=0.1))


def every(options: Any, number: int) -> Any:
    return replace(options, loop=replace(options.loop, steps=3, sample_every=number))


def sheet(path: Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


def test_a_training_with_pictures_ends_in_the_bytes_of_one_without(
    training: Train, run_of: RunOf, reporter: Reporter
) -> None:
    train, command, source, options = training
    with_pictures, without = (run_of(command, source, name) for name in ("with.safetensors", "without.safetensors"))
    train(with_pictures, every(options, 2))
    train(without, every(options, 0))
    assert with_pictures.output.read_bytes() == without.output.read_bytes()
    folder = with_pictures.output.with_name("with.safetensors.samples")
    assert sorted(path.name for path in folder.iterdir()) == ["step-2.png", "step-3.png"]
    assert not without.output.with_name("without.safetensors.samples").exists()
    second, third = (sheet(folder / f"step-{step}.png") for step in (2, 3))
    assert second.shape == third.shape
    assert (second != third).any()
    assert not any("picture (" in warning for warning in reporter.warnings)


def test_a_picture_that_fails_does_not_end_the_training(
    latents: Path,
    run_of: RunOf,
    reporter: Reporter,
    small_diffusion: Callable[..., TrainDiffusionOptions],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def samples(self: DenoiserLearner, batch: Any, seed: int) -> Shown:
        assert not self.model.training
        torch.rand(7)  # of the global generator
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(DenoiserLearner, "samples", samples)
    options = small_diffusion()
    options = replace(options, network=replace(options.network, dropout=0.1))
    failing, without = run_of("train-diffusion", latents, "failing"), run_of("train-diffusion", latents, "without")
    train_diffusion(failing, every(options, 1))
    train_diffusion(without, every(options, 0))
    assert failing.output.read_bytes() == without.output.read_bytes()
    assert r"step 1: no picture (RuntimeError('out of\nmemory')); training continues" in reporter.warnings
    # Nor does a folder that cannot be made.
    monkeypatch.undo()
    failing.output.unlink()
    failing.output.with_name("failing.samples").write_text("a file")
    train_diffusion(failing, every(options, 2))
    assert failing.output.read_bytes() == without.output.read_bytes()


def test_a_sheet_shows_a_row_for_each_thing_with_what_was_asked_and_outlines(tmp_path: Path) -> None:
    grey = torch.linspace(-1, 1, 2).view(2, 1, 1, 1).expand(2, 1, 16, 16)
    masks = torch.zeros(2, 1, 16, 16)
    masks[:, :, 4:12, 4:12] = 1
    rows = {"real": grey, "made": torch.full((2, 1, 16, 16), torch.nan)}
    for name, shown in {
        "plain": Shown(rows),
        "masked": Shown(rows, masks),
        "told": Shown(rows, note="latents"),
    }.items():
        Pictures(tmp_path / name).write(50, 200, shown, ["one", "two"])
    plain, masked, told = (sheet(tmp_path / name / "step-050.png") for name in ("plain", "masked", "told"))
    assert plain.shape[1] == masked.shape[1]
    assert (told != plain).any()
    greys = {tuple(colour) for colour in plain.reshape(-1, 3).tolist()}
    assert {(0, 0, 0), (255, 255, 255)} <= greys
    assert (masked == (0, 200, 220)).all(-1).sum() > 4 * 4 * 60  # around four tiles of 144 pixels
    Pictures(tmp_path / "again").write(50, 200, Shown(rows), ["one", "two"])
    assert (tmp_path / "again" / "step-050.png").read_bytes() == (tmp_path / "plain" / "step-050.png").read_bytes()


def test_weights_that_did_not_all_change_places_end_the_training(
    latents: Path,
    run_of: RunOf,
    small_diffusion: Callable[..., TrainDiffusionOptions],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where memory is full: it would go on with some weights of the average, and average the others."""

    def fails(self: MovingAverage) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(MovingAverage, "_exchange", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        train_diffusion(run_of("train-diffusion", latents), every(small_diffusion(), 1))
    assert not resume_path(run_of("train-diffusion", latents).output).exists()  # none of its steps is kept
