"""The full nodule preset, trained on phantoms for the time given: samples, placement and Frechet distance."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import torch

from medgen.config import preset_text

from .page import Page
from .work import Size, images_per_second, medgen

VECTOR = "has_nodule=1,x={x},y={y},size=0.12,malignancy=0.75,texture=1"
PLACES = ((0.28, 0.45), (0.7, 0.45), (0.3, 0.6), (0.72, 0.58))
SHARE_OF_VAE = 0.3
"""Of the minutes that there are."""


def measure(page: Page, folder: Path, size: Size, device: torch.device) -> None:
    """Phantoms of 256 x 256 at the full size; the steps that fit into the minutes are found by a short trial."""
    preset = "lidc-nodule" + size.suffix
    image_side = int(tomllib.loads(preset_text(preset))["preprocess"]["size"])
    cases = 160 if not size.suffix else 12
    phantoms, images = folder / "phantoms", folder / "images.h5"
    common: list[object] = ["--preset", preset, "-q"]
    medgen(
        "phantom", "chest-ct", *common, "-n", cases, "--size", max(image_side, 96), "--slices", 8, "--thickness", 2,
        "--spacing", 12, "--nodule-diameter", "20,50", "-o", phantoms, device=device,
    )  # fmt: skip
    labels = phantoms / "labels.csv"
    medgen("preprocess", phantoms / "dicom", *common, "--labels", labels, "-o", images, device=device)
    vae, latents, model = folder / "vae.safetensors", folder / "latents.h5", folder / "model.safetensors"
    steps = _train("train-vae", images, vae, common, size, SHARE_OF_VAE, device)
    medgen("extract-latents", images, "--vae", vae, "-o", latents, "-q", device=device)
    more = _train("train-diffusion", latents, model, common, size, 1 - SHARE_OF_VAE, device)
    conditions = folder / "conditions.csv"
    rows = [(x, y, 0.12, 0.75, 1) for x, y in PLACES * (8 if not size.suffix else 2)]
    lines = ["has_nodule,x,y,size,malignancy,texture", *(f"1,{','.join(map(str, row))}" for row in rows)]
    conditions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    samples, sheet, metrics = folder / "samples.h5", folder / "sheet.png", folder / "metrics.json"
    done = medgen(
        "generate", model, "--vae", vae, *common, "--conditions", conditions, "--device", device.type, "-o", samples,
        device=device,
    )  # fmt: skip
    medgen("preview", samples, "--columns", 8, "-o", sheet, "-q", device=device)
    medgen("evaluate", samples, "--reference", images, "--reference-split", "test", "-o", metrics, "-q", device=device)
    (found,) = json.loads(metrics.read_text(encoding="utf-8"))["sets"]
    page.say(
        f"{cases} phantoms; the autoencoder was trained for {steps} steps, the denoiser for {more}; "
        f"{len(rows)} samples in {done.seconds:.1f} s, {done.memory}. The samples lie beside this page as PNG."
    )
    figures = {name: found.get(name) for name in ("fidelity", "conditioning")}
    page.say("```json\n" + json.dumps(figures, indent=1) + "\n```")


def _train(
    command: str, source: Path, output: Path, common: list[object], size: Size, share: float, device: torch.device
) -> int:
    """Steps that fit into a share of the minutes, by the speed of a short trial; trained then from the start."""
    trial, log = output.with_name(f"trial-{output.name}"), output.with_name(f"{command}.jsonl")
    short = 30 if size.minutes else 3
    settings: list[object] = ["--device", device.type, "--set", f"loop.log_every={short // 3}", *size.quick]
    medgen(command, source, *common, *settings, "--set", "loop.warmup=0", "--steps", short, "--log", log, "-o", trial,
           device=device)  # fmt: skip
    loop = tomllib.loads(preset_text(str(common[1])))[command]["loop"]
    batch = int(size.quick[-1]) if size.quick else loop["batch_size"] * loop.get("accumulate", 1)
    rate = images_per_second(log) / batch
    steps = max(int(rate * 60 * size.minutes * share), short)
    warmup = min(loop.get("warmup", 0), steps // 10)
    medgen(command, source, *common, *settings, "--set", f"loop.warmup={warmup}", "--steps", steps, "-o", output,
           device=device)  # fmt: skip
    return steps
