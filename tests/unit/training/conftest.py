"""Small sets to train on, and trainings short enough for a test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set
from medgen.nets.options import UNetConfig, VAEConfig
from medgen.training.learners.diffusion_options import DenoiserOptions, TrainDiffusionOptions
from medgen.training.learners.vae_options import TrainVAEOptions
from medgen.training.loop.options import LoopOptions
from medgen.training.loop.run import Run

FIELDS = ("on", "x")


class Reporter:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.report: dict[str, Any] = {}
        self.told: list[str] = []
        self.warnings: list[str] = []
        self.details: list[str] = []

    def detail(self, message: str) -> None:
        self.details.append(message)

    def say(self, message: str) -> None:
        self.told.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    @contextlib.contextmanager
    def progress(self, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
        yield lambda count=1, note="": None


@pytest.fixture
def reporter() -> Reporter:
    return Reporter()


def disc(side: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = (np.mgrid[0:side, 0:side] + 0.5) / side
    return ((rows - y) ** 2 + (columns - x) ** 2 < radius**2).astype(np.float64)


def _write_images(
    path: Path,
    cases: int = 20,
    *,
    side: int = 32,
    splits: tuple[str, ...] = ("train", "train", "train", "val"),
    bad: float | None = None,
) -> Path:
    """Two slices a case, a bright disc at x where `on` is 1 (every third slice). `bad` goes into the first case."""
    rng = np.random.default_rng(0)
    header = SetHeader(
        "image", derive("make", {"cases": cases, "bad": bad is not None, "splits": splits}), Intensity(), FIELDS
    )
    with create_set(path, header) as writer:
        for number in range(cases):
            vector = np.zeros((2, 2), np.float32)
            image = np.full((2, 1, side, side), -800.0)
            for depth in range(2):
                image[depth, 0] += 400 * disc(side, *rng.uniform(0.3, 0.7, 2), rng.uniform(0.2, 0.4))
                if (2 * number + depth) % 3 == 0:
                    vector[depth] = 1, rng.uniform(0.2, 0.8)
                    image[depth, 0] += 700 * disc(side, vector[depth, 1], 0.5, 0.1)
            stored = image.astype(np.int16 if bad is None else np.float32)
            if bad is not None and number == 0:
                stored[1, 0, 3, 3] = bad
            writer.write(Case(f"case-{number:03d}", {"image": stored, "vector": vector}, splits[number % len(splits)]))
    return path


def _write_latents(path: Path, cases: int = 32) -> Path:
    """Latents (2, 8, 8) of two modes: +1 everywhere where `on` is 1, -1 elsewhere, with a little noise."""
    rng = np.random.default_rng(0)
    header = SetHeader(
        "latent",
        derive("make", {"cases": cases}),
        Intensity(),
        FIELDS,
        latent_scale=0.5,
        latent_shift=1.0,
        vae_digest="abc",
    )
    with create_set(path, header) as writer:
        for number in range(cases):
            on = np.arange(4) % 4 == 0
            values = np.where(on, 1.0, -1.0)[:, None, None, None] + 0.1 * rng.normal(size=(4, 2, 8, 8))
            vector = np.stack([on, np.zeros(4)], axis=1).astype(np.float32)
            stored = (values / 0.5 + 1.0).astype(np.float32)
            split = "val" if number % 4 == 3 else "train"
            writer.write(Case(f"case-{number:03d}", {"latent": stored, "vector": vector}, split))
    return path


@pytest.fixture
def write_images(tmp_path: Path) -> Callable[..., Path]:
    """Write another image set: `write_images("name.h5", cases, ...)`."""
    return lambda name, *arguments, **options: _write_images(tmp_path / name, *arguments, **options)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_images(tmp_path_factory.mktemp("images") / "images.h5")


@pytest.fixture(scope="session")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_latents(tmp_path_factory.mktemp("latents") / "latents.h5")


def _small_loop(**changes: Any) -> LoopOptions:
    values: dict[str, Any] = {
        "steps": 6, "batch_size": 4, "learning_rate": 2e-3, "precision": "float32", "validation_samples": 8,
        "log_every": 1, "save_every": 2, "ema": 0.9,
    }  # fmt: skip
    return LoopOptions(**(values | changes))


def _small_vae(loop: dict[str, Any] | None = None, **changes: Any) -> TrainVAEOptions:
    network = VAEConfig(latent_channels=2, widths=(8, 16), blocks=1)
    return TrainVAEOptions(**({"network": network, "loop": _small_loop(**(loop or {}))} | changes))


def _small_diffusion(loop: dict[str, Any] | None = None, **changes: Any) -> TrainDiffusionOptions:
    network = UNetConfig(
        widths=(16, 32), blocks=1, attention=("none", "linear"), mid_attention="none", head_width=16, time_width=32,
        groups=8, vector_hidden=16,
    )  # fmt: skip
    return DenoiserOptions(**({"network": network, "loop": _small_loop(**(loop or {}))} | changes))


@pytest.fixture
def small_vae() -> Callable[..., TrainVAEOptions]:
    """Options of a VAE that trains in a moment: `small_vae({"steps": 9}, flip=True)`."""
    return _small_vae


@pytest.fixture
def small_diffusion() -> Callable[..., TrainDiffusionOptions]:
    """Options of a denoiser that trains in a moment."""
    return _small_diffusion


@pytest.fixture
def run_of(tmp_path: Path, reporter: Reporter) -> Callable[..., Run]:
    def make(command: str, source: Path, output: str = "model.safetensors", **changes: Any) -> Run:
        return Run(command, str(source), tmp_path / output, torch.device("cpu"), reporter, **changes)

    return make
