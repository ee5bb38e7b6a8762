from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgen.artifacts.model_file import open_model
from medgen.artifacts.schema import GENERATED
from medgen.artifacts.sets import create_set, open_set
from medgen.errors import DataError
from medgen.training.data.options import Balance
from medgen.training.data.slices import Slices
from medgen.training.learners.diffusion import train_diffusion
from medgen.training.loop.run import Run


def test_images_come_windowed_and_latents_shifted_and_scaled(images: Path, latents: Path) -> None:
    with open_set(images, random_access=True) as stored:
        batch = Slices(stored, "train", 0).read([0, 5, 3])
        raw = stored.read("image", [0, 5, 3])
        assert batch["x"].shape == (3, 1, 32, 32)
        assert np.allclose(batch["x"].numpy(), np.clip((raw + 1000) / 700 - 1, -1, 1), atol=1e-6)
        assert np.array_equal(batch["vector"].numpy(), stored.read("vector", [0, 5, 3]))
    with open_set(latents, random_access=True) as stored:
        x = Slices(stored, "train", 0).read([0, 1])["x"].numpy()
        assert np.allclose(x, (stored.read("latent", [0, 1]) - 1.0) * 0.5)
        assert x[0].mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("split", ["train", "val"])
def test_both_splits_keep_to_their_cases_and_to_the_balance(images: Path, split: str) -> None:
    with open_set(images, random_access=True) as stored:
        even = Slices(stored, split, 0)
        own = {row.start + place for row in stored.cases if row.split == split for place in range(row.count)}
        assert set(even.sampler[range(len(even))]) == own
        assert np.mean([even.at([place])["vector"][0, 0] for place in range(len(even))]) == pytest.approx(
            1 / 3, abs=0.1
        )
        balanced = Slices(stored, split, 0, Balance("on", 0.6))
        assert float(balanced.at(range(50))["vector"][:, 0].mean()) == pytest.approx(0.6)


def test_what_cannot_be_drawn_is_refused(images: Path, write_images: Callable[..., Path]) -> None:
    with open_set(images, random_access=True) as stored:
        with pytest.raises(DataError, match=r"no 'test' split \(it holds: train, val"):
            Slices(stored, "test", 0)
        with pytest.raises(DataError, match="'size': the set has the vector fields on, x"):
            Slices(stored, "train", 0, Balance("size"))
    with open_set(write_images("one.h5", 1), random_access=True) as stored:
        stored.column = lambda name: np.zeros((2, 2), np.float32)  # type: ignore[method-assign]
        with pytest.raises(DataError, match="'on' is never above 0"):
            Slices(stored, "train", 0, Balance("on"))


def test_the_first_value_that_is_not_finite_is_named(write_images: Callable[..., Path]) -> None:
    with open_set(write_images("bad.h5", 4, bad=float("nan")), random_access=True) as stored:
        slices = Slices(stored, "train", 0)
        assert slices.faulty(range(6)) == "slice 1 of case case-000 holds image values that are not finite"
    with open_set(write_images("good.h5", 4), random_access=True) as stored:
        assert Slices(stored, "train", 0).faulty(range(6)) is None


def test_the_provenance_counts_the_synthetic_cases_that_were_trained_on(
    make_set: Callable[..., Path], run_of: Callable[..., Run], small_diffusion: Callable[..., Any], tmp_path: Path
) -> None:
    real, mixed = make_set("real.h5", count=6), tmp_path / "mixed.h5"
    with open_set(real) as reader, create_set(mixed, reader.header) as writer:
        for number, case in enumerate(reader):  # cases 2 and 5 are for validation
            writer.write(dataclasses.replace(case, synthetic=GENERATED if number in (0, 2) else ""))
    told = []
    for source in (real, mixed):
        run = run_of("train-diffusion", source, f"{source.stem}.safetensors")
        train_diffusion(run, small_diffusion())
        told.append(open_model(run.output).provenance.steps[-1].config.get("trained_on"))
    cases = hashlib.sha256(b"case0\ncase1\ncase3\ncase4").hexdigest()[:16]
    assert told == [None, {"generated": 1, "real": 3, "cases": cases}]
