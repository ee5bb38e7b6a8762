"""Measure everything, or the parts that are named, and print one table."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import diffusers
import torch

from medgen.nets.compute import processor

from .command_contests import command_contests
from .evaluation_contests import Figures, evaluation_contests
from .network_contests import Scale, network_contests
from .networks import counted, unets, vaes
from .side_contests import side_contests
from .table import Contest, instruction_sets, rendered, take_turns, versions
from .text_contests import text_contests
from .workshop import Chain

QUICK = Scale(
    (32, 64), (16, 32), latent_side=8, image_side=32, crop=32, batch=2, images=1, steps=2,
    volume_widths=(32, 64), volume=(10, 4, 8, 8),
)  # fmt: skip
QUICK_CHAIN = Chain((32, 64), (16, 32), dicom_side=64, side=32, slices=4, encoded=1, decoded=2, samples=2, steps=2)
QUICK_FIGURES = Figures(images=2, side=192, features=8, few=6, many=20, subsets=2)
PARTS = ("networks", "masks", "text", "commands", "evaluation")


def main() -> None:
    """Measure and print; what is under way is told on standard error."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all without one")
    parser.add_argument("--only", default="", metavar="WORD", help="only work whose name contains this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny networks and data, to try the bench itself")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    parts = arguments.parts or PARTS
    device = torch.device(arguments.device)
    scale = QUICK if arguments.quick else Scale()
    torch.manual_seed(0)
    diffusers.utils.logging.set_verbosity_error()

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for contest, commands in _contests(parts, device, scale, Path(folder), quick=arguments.quick):
            if arguments.only not in contest.work:
                continue
            # A command's files are warm after one turn, and it has nothing else to warm up.
            rounds = max(arguments.rounds - 1, 1) if commands else arguments.rounds
            rows.append(take_turns(contest, rounds, warm_up=not commands, wait=wait))
            sys.stderr.write(rendered(rows[-1:]).splitlines()[-1] + "\n")

    write = sys.stdout.write
    write(f"{_hardware(device)}; {versions('medgen', 'torch', 'monai', 'diffusers', 'pydicom', 'torchmetrics')}\n")
    if "networks" in parts:
        write(counted("UNet", unets(scale.unet_widths, flash=False)) + "; ")
        write(counted("VAE", vaes(scale.vae_widths)) + "\n")
    write("\n" + rendered(rows))


def _contests(
    parts: list[str] | tuple[str, ...], device: torch.device, scale: Scale, folder: Path, *, quick: bool
) -> Iterator[tuple[Contest, bool]]:
    """Each contest, and whether it is between whole commands."""
    if "networks" in parts:
        yield from ((contest, False) for contest in network_contests(device, scale))
    if "masks" in parts:
        yield from ((contest, False) for contest in side_contests(device, scale))
    if "text" in parts:
        yield from ((contest, False) for contest in text_contests(device, scale))
    if "evaluation" in parts:
        yield from ((contest, False) for contest in evaluation_contests(QUICK_FIGURES if quick else Figures()))
    if "commands" in parts:
        yield from ((contest, True) for contest in command_contests(folder, QUICK_CHAIN if quick else Chain()))


def _hardware(device: torch.device) -> str:
    name = f"{processor()} ({instruction_sets()}), {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name(device)}; {name}" if device.type == "cuda" else name


if __name__ == "__main__":
    main()
