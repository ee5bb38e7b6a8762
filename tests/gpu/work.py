"""Running medgen's commands in this process, so that the memory they take on the device can be read afterwards."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set
from medgen.cli.app import run

NODULE_FIELDS = ("has_nodule", "x", "y", "size", "malignancy", "texture")
HU = Intensity(1.0, 0.0, "HU", (-1000.0, 400.0))
SOFT_TISSUE = Intensity(1.0, 0.0, "HU", (-160.0, 240.0))
GREY = Intensity(1.0, 0.0, "grey", (0.0, 255.0))


@dataclass(frozen=True)
class Size:
    """How much of it: `full` on a CUDA device, `tiny` to see that it works."""

    suffix: str
    """Behind the name of a preset."""
    steps: int
    """Training steps that are timed."""
    cases: int
    thick: int
    """Slices to interpolate."""
    side: int
    """Of these, in pixels."""
    minutes: float
    """For training `lidc-nodule`."""
    sampling: tuple[int, ...]
    """Sampling steps of the interpolations."""
    quick: tuple[str, ...] = ()
    """Options that shorten trainings; the batch comes last."""


FULL = Size("", steps=60, cases=24, thick=50, side=512, minutes=6.0, sampling=(20, 20, 10))
QUICK = ("--set", "loop.validation_samples=4", "--batch-size", "2")
TINY = Size("-tiny", steps=2, cases=6, thick=4, side=32, minutes=0.0, sampling=(2, 2, 1), quick=QUICK)


@dataclass(frozen=True)
class Done:
    """What a command took."""

    seconds: float
    gigabytes: float | None
    """Most memory held on a CUDA device."""

    @property
    def memory(self) -> str:
        """In words."""
        return "-" if self.gigabytes is None else f"{self.gigabytes:.1f} GB"


def medgen(*arguments: object, device: torch.device) -> Done:
    """Run one command; SystemExit if it fails."""
    words = [str(one) for one in arguments]
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    sys.stderr.write(f"$ medgen {' '.join(words)}\n")
    before = time.monotonic()
    status = run(words)
    if status:
        raise SystemExit(status)
    seconds = time.monotonic() - before
    return Done(seconds, torch.cuda.max_memory_allocated(device) / 1e9 if cuda else None)


def noise_set(
    path: Path, shape: tuple[int, ...], cases: int, intensity: Intensity, *, spacing: float = 1.0, vectors: bool = False
) -> Path:
    """Cases of noise (D, C, H, W) in the intensity's window; with nodule vectors if asked."""
    rng = np.random.default_rng(0)
    low, high = intensity.window
    fields = NODULE_FIELDS if vectors else ()
    header = SetHeader(
        kind="image", provenance=derive("bench", {"shape": list(shape)}), intensity=intensity, vector_fields=fields
    )
    dtype = np.uint8 if intensity.unit == "grey" else np.int16
    with create_set(path, header, force=True) as writer:
        for index in range(cases):
            arrays = {"image": rng.integers(int(low), int(high), shape).astype(dtype)}
            if fields:
                arrays["vector"] = (np.arange(len(arrays["image"]))[:, None] % 2 * rng.random((shape[0], 6))).astype(
                    np.float32
                )
                arrays["vector"][:, 0] = np.arange(shape[0]) % 2
            split = "val" if index % 5 == 4 else "train"
            writer.write(Case(f"case-{index:03d}", arrays, split=split, spacing=(spacing, 0.7, 0.7), origin=(0, 0, 0)))
    return path


def images_per_second(log: Path) -> float:
    """Median over the lines of a training's log, the first, with its warm-up, left out."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
    return float(np.median(rates[1:] or rates))
