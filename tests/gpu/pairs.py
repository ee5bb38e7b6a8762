"""The siamese preset on pairs of images and masks of 256 x 256: speed and memory of its trainings and of sampling."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import torch

from medgen.config import preset_text

from .page import Page
from .work import Size, images_per_second, medgen

SIDE = 256
BATCH = 16
REAL = ("polyp_cvc612", "retina_chase_db1")
"""Folders in mask_pairs of MEDGEN_REAL_DATA."""


def measure(page: Page, folder: Path, size: Size, device: torch.device) -> None:
    """A trunk of images alone, then the side network on pairs, then samples of the pairs' masks."""
    preset = "siamese" + size.suffix
    full = not size.suffix
    common: list[object] = ["--preset", preset, "-q"]
    timed: list[object] = ["--steps", size.steps, "--set", f"loop.log_every={max(size.steps // 6, 1)}"]
    timed += ["--device", device.type, *(size.quick or ("--batch-size", BATCH))]
    batch = size.quick[-1] if size.quick else BATCH
    rows: list[tuple[str, ...]] = []

    def trained(name: str, source: Path, output: Path, *more: object) -> Path:
        log = output.with_suffix(".jsonl")
        command = "train-vae" if name == "VAE" else "train-diffusion"
        done = medgen(command, source, *common, *timed, *more, "--log", log, "-o", output, device=device)
        rows.append((place.name, f"{name}, batch {batch}", f"{images_per_second(log):.1f}", done.memory))
        return output

    for images, masks in _pairs(folder, size, device):
        place = folder / images.parent.name
        place.mkdir(exist_ok=True)
        pairs = place / "pairs.h5"
        side = ["--size", SIDE] if full else []
        medgen("preprocess", images, *common, *side, "--masks", masks, "-o", pairs, device=device)
        through: list[object] = []
        frames = pairs
        if "train-vae" in tomllib.loads(preset_text(preset)):
            vae, frames = trained("VAE", pairs, place / "vae.safetensors"), place / "latents.h5"
            medgen("extract-latents", pairs, "--vae", vae, "-o", frames, "-q", device=device)
            through = ["--vae", vae]
        search = "--no-search-guidance"
        trunk = trained("trunk", frames, place / "trunk.safetensors", "--learner", "denoiser", search)
        model = trained("pairs", pairs, place / "model.safetensors", "--init", trunk, *through, search)
        samples = 4 * int(batch)
        done = medgen(
            "generate", model, *common, *through, "--like", pairs, "-n", samples, "--device", device.type,
            "-o", place / "samples.h5", device=device,
        )  # fmt: skip
        medgen("preview", place / "samples.h5", "--columns", 8, "--limit", 32, "-o", place / "sheet.png", "-q",
               device=device)  # fmt: skip
        rows.append((place.name, f"{samples} samples, loading included", f"{samples / done.seconds:.1f}", done.memory))
    page.say("The trainings are short: the rows tell of speed and memory, not of quality.")
    page.table(("pairs", "work", "images a second", "peak memory"), rows)


def _pairs(folder: Path, size: Size, device: torch.device) -> Iterator[tuple[Path, Path]]:
    """Folders of images and masks: the real ones where they are at hand, else drawn ones."""
    real = os.environ.get("MEDGEN_REAL_DATA", "")
    found = [Path(real) / "mask_pairs" / name for name in REAL] if real and not size.suffix else []
    if not found:
        found = [folder / "endoscopy"]
        side = SIDE if not size.suffix else 64
        medgen("phantom", "endoscopy", "-n", size.cases, "--size", side, "-o", found[0], "-q", device=device)
    yield from ((place / "images", place / "masks") for place in found if (place / "masks").is_dir())
