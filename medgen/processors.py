"""How many processors this process may keep busy, and how its threads wait for each other."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

SPINS = 4000
"""Iterations that a thread of libgomp spins before it sleeps, about a tenth of a millisecond. Its default of 300,000
outlasts the time slices of other processes: each synchronisation of two threads then costs one such time slice."""


def share_processors() -> None:
    """Start no more threads of OpenMP than may run, which let others run while they wait, and none of OpenBLAS.

    Call it before torch, numpy and scipy load them. Threads beyond a container's quota are stopped for most of each
    tenth of a second. The matrices of numpy and scipy are small here, and there are thousands of them: beside other
    processes, waiting for OpenBLAS's threads would take most of the time. Large ones are torch's. Values that the user
    has set in the environment (OMP_NUM_THREADS, OMP_WAIT_POLICY, GOMP_SPINCOUNT, OPENBLAS_NUM_THREADS) are kept.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    if processors() < _allowed():
        os.environ.setdefault("OMP_NUM_THREADS", str(processors()))


def processors() -> int:
    """Processors that this process may keep busy: those it may run on, but no more than its cgroups' quota allows."""
    return max(1, math.ceil(min(_allowed(), cpu_quota())))


def cpu_quota(root: Path = Path("/")) -> float:
    """Number of processors that the cgroups of this process allow, infinity without a limit.

    A group's limit applies to all groups below it. Both versions of cgroups are read, at the places below `root` where
    systemd and container engines mount them.
    """
    mounted = root / "sys/fs/cgroup"
    limits = [math.inf]
    for controllers, path in _groups(root / "proc/self/cgroup"):
        for mount in (mounted / controllers,) if controllers else (mounted, mounted / "unified"):
            # In a container the path may be the host's, of which only the mount point itself is visible.
            for folder in (mount / path.strip("/"), *(mount / path.strip("/")).parents):
                if folder.is_relative_to(mount):
                    limits.append(_limit(folder))
    return min(limits)


def _allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _groups(file: Path) -> Iterator[tuple[str, str]]:
    """Controllers ("" for version 2) and paths of the groups that may limit processors."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                yield controllers, path


def _limit(folder: Path) -> float:
    """The limit of one group alone: `cpu.max` holds microseconds and the period in which they may be used."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    return math.inf
