"""Fifty thick slices to three hundred thin ones, at 512 x 512, decoded; the networks are hardly trained."""

from __future__ import annotations

from pathlib import Path

import torch

from .page import Page
from .work import SOFT_TISSUE, Size, medgen, noise_set

WANTED = "Wanted: at most 10 s and less than 16 GB; published: 15 s on an A100."


def measure(page: Page, folder: Path, size: Size, device: torch.device) -> None:
    """One row a number of sampling steps."""
    preset = "ct-interpolation" + size.suffix
    depth = 64 if not size.suffix else 32
    images = noise_set(folder / "thin.h5", (depth, 1, size.side, size.side), 6, SOFT_TISSUE)
    thick = noise_set(folder / "thick.h5", (size.thick, 1, size.side, size.side), 1, SOFT_TISSUE, spacing=6.0)
    vae, model = folder / "vae.safetensors", folder / "model.safetensors"
    short = ["--preset", preset, "--steps", 1, "--set", "loop.warmup=0", *size.quick, "--device", device.type, "-q"]
    medgen("train-vae", images, *short, "-o", vae, device=device)
    medgen("train-diffusion", images, *short, "--vae", vae, "-o", model, device=device)
    rows = []
    for turn, steps in enumerate(size.sampling):
        done = medgen(
            "interpolate", thick, "--preset", preset, "--model", model, "--vae", vae, "--spacing", 1.0, "--steps",
            steps, "--device", device.type, "-o", folder / f"thin-{turn}.h5", "-q", device=device,
        )  # fmt: skip
        rows.append((str(steps), "first" if turn == 0 else "again", f"{done.seconds:.1f} s", done.memory))
    page.say(
        f"{size.thick} slices 6 mm apart to {6 * size.thick - 5} slices 1 mm apart, {size.side} x {size.side}. {WANTED}"
    )
    page.say("The whole command, with loading the networks and writing the set.")
    page.table(("steps", "run", "time", "peak memory"), rows)
