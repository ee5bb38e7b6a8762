"""One Markdown page a part, named after the device, its driver and the versions that ran."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import torch

from medgen.nets.compute import processor
from tests.bench.table import instruction_sets, versions


@dataclass
class Page:
    """A title, then paragraphs and tables."""

    title: str
    device: torch.device
    blocks: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Add a paragraph."""
        self.blocks.append(text)

    def table(self, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """Add a table."""
        lines = [columns, ("---",) * len(columns), *rows]
        self.blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))

    def write(self, folder: Path, name: str) -> Path:
        """Write `DEVICE-NAME.md` into `folder`."""
        facts = f"{machine(self.device)}; {versions('medgen', 'torch', 'numpy', 'monai', 'diffusers')}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{_file_name(device_name(self.device))}-{name}.md"
        path.write_text("\n\n".join([f"# {self.title}", facts, *self.blocks]) + "\n", encoding="utf-8")
        return path


def device_name(device: torch.device) -> str:
    """Of the GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def machine(device: torch.device) -> str:
    """Device, driver, CUDA and processor."""
    beside = f"{processor()} ({instruction_sets()}), {torch.get_num_threads()} threads"
    if device.type != "cuda":
        return beside
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")[0].strip()
    return f"{device_name(device)}, driver {driver or 'unknown'}, CUDA {torch.version.cuda}; {beside}"


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")
