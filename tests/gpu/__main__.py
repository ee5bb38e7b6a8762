"""Measure one part on a CUDA device and write its Markdown page; without a part, list them."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from . import interpolation, nodules, pairs, presets
from .page import Page
from .work import FULL, TINY, Size

ROOT = Path(__file__).parents[2]
Measure = Callable[[Page, Path, Size, torch.device], None]
TESTS = (
    "tests/gpu/test_cuda.py",
    *(f"tests/unit/{room}" for room in ("nets", "diffusion", "training", "inference")),
    "tests/cli/test_train.py",
    "tests/cli/test_generate.py",
)


def tests(page: Page, folder: Path, size: Size, device: torch.device) -> None:
    """Networks, diffusion, trainings and inference, and what only CUDA can show."""
    chosen = TESTS[:1] if size is TINY else TESTS
    _child(page, [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", *chosen])


def bench(part: str, sample: str) -> Measure:
    """A part of the bench, on the device; at the tiny size only the work whose name contains `sample`."""

    def measure(page: Page, folder: Path, size: Size, device: torch.device) -> None:
        quick = ["--quick", "--rounds", "1"] if size is TINY else ["--rounds", "2"]
        only = ["--only", sample] if size is TINY else []
        _child(page, [sys.executable, "-m", "tests.bench", part, "--device", device.type, *quick, *only])

    return measure


PARTS: dict[str, tuple[str, str, Measure]] = {
    "1": ("tests", "The tests on CUDA", tests),
    "2": ("networks", "Networks beside MONAI's and diffusers'", bench("networks", "VAE decode")),
    "3": ("commands", "Whole commands beside MONAI scripts", bench("commands", "uncompressed")),
    "4": ("presets", "Trainings of every full preset", presets.measure),
    "5": ("interpolation", "Fifty slices to three hundred", interpolation.measure),
    "6": ("nodules", "lidc-nodule, trained for some minutes", nodules.measure),
    "7": ("pairs", "siamese, on pairs of images and masks", pairs.measure),
}


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("part", nargs="?", choices=PARTS, help="its number")
    parser.add_argument("--tiny", action="store_true", help="at the smallest size, on any device")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "gpu", help="folder of the pages")
    arguments = parser.parse_args()
    if arguments.part is None:
        for number, (name, title, _) in PARTS.items():
            sys.stdout.write(f"make gpu PART={number}   {name}: {title}\n")
        return
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is there; --tiny --device cpu shows that the parts run")
    size = TINY if arguments.tiny else FULL
    sys.stdout.write(f"{write_page(arguments.part, torch.device(arguments.device), size, arguments.output)}\n")


def write_page(part: str, device: torch.device, size: Size, output: Path) -> Path:
    """Measure a part and write its page into the folder `output`, with what was measured before a failure."""
    name, title, measure = PARTS[part]
    page, before = Page(title, device), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        try:
            measure(page, Path(folder), size, device)
        finally:
            page.say(f"{time.monotonic() - before:.0f} s in all.")
            written = page.write(output, name)
            for sheet in Path(folder).rglob("sheet.png"):
                written.with_suffix(".png").write_bytes(sheet.read_bytes())
    return written


def _child(page: Page, command: list[str]) -> None:
    """Run it, keep what it prints, and fail if it does."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    page.say(done.stdout.strip() if "tests.bench" in command else f"```\n{done.stdout.strip()[-6000:]}\n```")
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
