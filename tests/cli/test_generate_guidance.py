"""The scale that a model stores, its shape over time, a weaker model as guide, and what is far from the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgen.artifacts.model_file import open_model, save_model
from medgen.artifacts.sets import open_set
from medgen.cli.app import run

ASKED = ["--vector", "has_nodule=1,x=0.3", "-n", "2", "--steps", "4", "--precision", "float32"]


def copy(tiny: Path, path: Path, gain: float = 1.0, **facts: Any) -> Path:
    """The model of images with other facts, and weights that are multiplied."""
    model = open_model(tiny / "pixels.safetensors")
    weights = {name: tensor * gain for name, tensor in model.weights().items()}
    told = {**model.facts, **facts}
    save_model(path, kind="denoiser", config=model.config, weights=weights, facts=told, provenance=model.provenance)
    return path


def images(model: Path, output: Path, *more: str) -> np.ndarray:
    assert run(["generate", str(model), "-o", str(output), "--force", *ASKED, *more]) == 0
    with open_set(output, random_access=True) as stored:
        return stored.read("image", range(2))


def settings(output: Path) -> dict[str, Any]:
    with open_set(output) as stored:
        return stored.provenance.steps[-1].config


def test_the_stored_scale_is_the_default_and_told(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    old, output = tiny / "pixels.safetensors", tmp_path / "s.h5"
    stored = copy(tiny, tmp_path / "m.safetensors", guidance=3.0, guidance_range=[1.0, 5.0])
    np.testing.assert_array_equal(images(stored, output, "-v"), images(old, tmp_path / "o.h5", "--guidance", "3"))
    assert "guidance 3, which the training of" in capfd.readouterr().err
    assert (settings(output)["guidance"], settings(output)["guidance_from"]) == (3.0, "the model")
    np.testing.assert_array_equal(images(stored, output, "--guidance", "2"), images(old, tmp_path / "o.h5"))
    assert settings(output)["guidance"] == settings(tmp_path / "o.h5")["guidance"] == 2.0
    assert "guidance_from" not in settings(output)


def test_the_shape_over_time_counts(tiny: Path, tmp_path: Path) -> None:
    model, output = tiny / "pixels.safetensors", tmp_path / "s.h5"
    constant = images(model, output, "--guidance", "4")
    shapes = ("linear", "cosine", "interval", "0.3,0.9")
    other = [images(model, output, "--guidance", "4", "--guidance-shape", shape) for shape in shapes]
    assert len({one.tobytes() for one in (constant, *other)}) == 5
    assert settings(output)["guidance_shape"] == [0.3, 0.9]
    np.testing.assert_array_equal(images(model, output, "--guidance", "4", "--guidance-shape", "0,1"), constant)


def test_a_guide_that_is_no_weaker_leads_nowhere_and_a_weaker_one_away_from_itself(tiny: Path, tmp_path: Path) -> None:
    model, output = tiny / "pixels.safetensors", tmp_path / "s.h5"
    alone = images(model, output, "--guidance", "1").astype(int)
    assert np.abs(images(model, output, "--guidance", "3", "--guide-by", str(model)) - alone).max() <= 1
    weaker = copy(tiny, tmp_path / "weaker.safetensors", gain=0.8)
    guided = images(model, output, "--guidance", "3", "--guide-by", str(weaker))
    assert settings(output)["guide_by"] == open_model(weaker).digest
    halfway = images(model, output, "--guidance", "2", "--guide-by", str(weaker))
    assert np.abs(guided - alone).mean() > np.abs(halfway - alone).mean() > 1
    # Without a condition too.
    assert run(["generate", str(model), "-o", str(output), "--force", "--steps", "2", "--guide-by", str(weaker)]) == 0


def test_a_guide_of_other_images_is_refused(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = copy(tiny, tmp_path / "other.safetensors", objective="v", vector_fields=["a", "b", "c", "d", "e", "f"])
    for guide, status, reason in (
        (other, 65, "they differ in objective, vector_fields"),
        (tiny / "model.safetensors", 65, "they differ in space"),
        (tiny / "vae.safetensors", 65, "expected 'denoiser'"),
    ):
        command = ["generate", str(tiny / "pixels.safetensors"), "-o", str(tmp_path / "s.h5"), *ASKED]
        assert run([*command, "--guide-by", str(guide)]) == status
        assert reason in capfd.readouterr().err
    assert run([*command, "--guide-by", str(other), "--negative-vector", "x=1"]) == 2
    assert run([*command, "--guidance-shape", "0.9,0.3"]) == 78


def test_what_lies_far_outside_of_the_training_is_warned_of(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ranges = [[0.0, 1.0], [0.5, 0.6], *[[0.0, 0.0]] * 4]
    model = copy(tiny, tmp_path / "m.safetensors", guidance=2.0, guidance_range=[1.0, 5.0], vector_range=ranges)
    images(model, tmp_path / "s.h5", "--guidance", "12")
    said = capfd.readouterr().err
    assert "guidance 12 is far above the scales that were tried in training, 1 to 5" in said
    assert "x = 0.3: in training it went from 0.5 to 0.6" in said
    assert "size" not in said
    images(model, tmp_path / "s.h5", "--vector", "has_nodule=1,x=0.6", "--guidance", "6")
    assert "training" not in capfd.readouterr().err
