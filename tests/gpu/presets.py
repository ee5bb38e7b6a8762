"""Step time, images per second and peak memory of every preset's trainings."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import torch

from medgen.config import preset_text

from .page import Page
from .work import GREY, HU, SOFT_TISSUE, Size, images_per_second, medgen, noise_set


def measure(page: Page, folder: Path, size: Size, device: torch.device) -> None:
    """One row a training: the autoencoder of each preset, then its diffusion model, on images of noise."""
    rows = []
    for preset, intensity, depth in (
        ("lidc-nodule", HU, 4),
        ("dental-normalizer", GREY, 1),
        ("ct-interpolation", SOFT_TISSUE, 64),
    ):
        name = preset + size.suffix
        content = tomllib.loads(preset_text(name))
        side = int(content["preprocess"]["size"].split("x")[0])
        volumes = content["train-diffusion"].get("learner") == "interpolator"
        cases = max(size.cases // depth, 6) if volumes else size.cases
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        images = noise_set(place / "images.h5", (depth, 1, side, side), cases, intensity, vectors=depth == 4)
        vae, latents, model = place / "vae.safetensors", place / "latents.h5", place / "model.safetensors"
        rows.append(_row(name, "train-vae", [images], vae, place, size, device))
        if volumes or "identity" in content["train-diffusion"].get("normalizer", {}):
            extra: list[object] = ["--vae", vae]
        else:
            extra = []
        if not volumes:
            medgen("extract-latents", images, "--vae", vae, "-o", latents, "-q", device=device)
        rows.append(_row(name, "train-diffusion", [images if volumes else latents, *extra], model, place, size, device))
    page.say("Images of noise; each training with its preset's precision.")
    page.table(("preset", "training", "batch", "step", "images a second", "peak memory"), rows)


def _row(
    preset: str, command: str, inputs: list[object], output: Path, folder: Path, size: Size, device: torch.device
) -> tuple[str, ...]:
    log = folder / f"{command}.jsonl"
    done = medgen(
        command, *inputs, "--preset", preset, "--steps", size.steps, "--set", "loop.warmup=0", "--set",
        f"loop.log_every={max(size.steps // 6, 1)}", *size.quick, "--log", log, "--device", device.type,
        "-o", output, "-q", device=device,
    )  # fmt: skip
    loop = tomllib.loads(preset_text(preset))[command]["loop"]
    batch = int(size.quick[-1]) if size.quick else loop["batch_size"] * loop.get("accumulate", 1)
    rate = images_per_second(log)
    steps = [json.loads(line).get("step", 0) for line in log.read_text(encoding="utf-8").splitlines()]
    if max(steps) != size.steps:
        raise SystemExit(f"{log}: ends at step {max(steps)} of {size.steps}")
    return preset, command, str(batch), f"{1000 * batch / rate:.0f} ms", f"{rate:.1f}", done.memory
