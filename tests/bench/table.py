"""Rows of measured seconds, the taking of turns that measures them, and the one table they end in."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

OURS = "medgen"

Work = Callable[[], object]


@dataclass(frozen=True)
class Contest:
    """One piece of work, the terms on which it is done, and who does it; medgen is among them."""

    work: str
    terms: str
    contestants: Mapping[str, Work]


@dataclass(frozen=True)
class Row:
    """Seconds of each contestant."""

    work: str
    terms: str
    seconds: Mapping[str, float]

    def ratios(self) -> dict[str, float]:
        """Seconds of each other one by those of medgen: above 1 medgen is faster."""
        ours = self.seconds[OURS]
        return {name: seconds / ours for name, seconds in self.seconds.items() if name != OURS}


def take_turns(contest: Contest, rounds: int, *, warm_up: bool = True, wait: Work = lambda: None) -> Row:
    """Least seconds of each contestant over rounds in which they take turns; `wait` ends the work of a device."""
    best = dict.fromkeys(contest.contestants, float("inf"))
    for turn in range(rounds + warm_up):
        for name, work in contest.contestants.items():
            before = time.perf_counter()
            work()
            wait()
            if turn >= warm_up:
                best[name] = min(best[name], time.perf_counter() - before)
    return Row(contest.work, contest.terms, best)


def rendered(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table; work that repeats is named once."""
    lines = ["| work | terms | medgen | time of others / medgen's |", "|---|---|---|---|"]
    before = ""
    for row in rows:
        ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in row.ratios().items())
        work = "" if row.work == before else row.work
        lines.append(f"| {work} | {row.terms} | {_time(row.seconds[OURS])} | {ratios} |")
        before = row.work
    return "\n".join(lines) + "\n"


def versions(*packages: str) -> str:
    """Names and versions of those packages that are installed."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages if installed(name))


def installed(package: str) -> bool:
    """Whether a distribution of this name is there."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def instruction_sets() -> str:
    """The widest vector instructions of this processor, in the words of torch, and what it has for bfloat16."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    flags = {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}
    widest = torch.backends.cpu.get_cpu_capability()
    # Where torch is held to less (ATEN_CPU_CAPABILITY), what the processor has beyond that is not used.
    held = widest in ("DEFAULT", "NO AVX", "AVX2")
    special = [] if held else [name for name in ("avx512_bf16", "amx_bf16", "amx_tile") if name in flags]
    return ", ".join([widest, *special])


def _time(seconds: float) -> str:
    return (
        f"{seconds:.2f} s"
        if seconds >= 1
        else f"{1000 * seconds:.0f} ms"
        if seconds >= 0.01
        else f"{1000 * seconds:.2f} ms"
    )
