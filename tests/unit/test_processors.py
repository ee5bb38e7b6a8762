"""No more threads than may run, and none that keeps a processor while it waits."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medgen import processors
from medgen.processors import cpu_quota

TOLD = """
import sys
from medgen.cli.app import main
sys.argv = ["medgen", "presets", "-q"]
try:
    main()
except SystemExit:
    pass
import os
import numpy
numpy.ones((600, 600)) @ numpy.ones((600, 600))
print("threads beside this one:", len(os.listdir("/proc/self/task")) - 1)
import torch
torch.ones(1 << 20).add_(1)
"""


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000", "cpu.max": "max 100000"}, 4),
        ("0::/kubepods/pod1\n", {"cpu.max": "200000 100000"}, 2),  # the host's path, which the container cannot see
        ("0::/\n", {"cpu.max": ""}, math.inf),
        ("0::/\n", {}, math.inf),
        ("", {"cpu.max": "100000 100000"}, math.inf),
        (
            "5:memory:/x\n4:cpu,cpuacct:/x\n1:name=systemd:/x\n0::/\n",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        ("4:cpu:/x\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ("2:memory:/\n0::/\n", {"unified/cpu.max": "300000 100000"}, 3),
    ],
)
def test_the_quota_of_a_container_is_read(tmp_path: Path, groups: str, files: dict[str, str], quota: float) -> None:
    write(tmp_path / "proc/self/cgroup", groups)
    for name, text in files.items():
        write(tmp_path / "sys/fs/cgroup" / name, text)
    assert cpu_quota(tmp_path) == quota


def test_without_cgroups_there_is_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == math.inf


@pytest.mark.parametrize(
    ("allowed", "quota", "count"), [(8, 2.0, 2), (8, 1.5, 2), (8, 0.1, 1), (2, 16.0, 2), (4, math.inf, 4)]
)
def test_processors_are_those_allowed_and_paid_for(
    monkeypatch: pytest.MonkeyPatch, allowed: int, quota: float, count: int
) -> None:
    monkeypatch.setattr(processors, "_allowed", lambda: allowed)
    monkeypatch.setattr(processors, "cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "environ", {})
    assert processors.processors() == count
    processors.share_processors()
    assert os.environ.get("OMP_NUM_THREADS") == (str(count) if count < allowed else None)
    assert os.environ["GOMP_SPINCOUNT"] == str(processors.SPINS)


def test_what_the_user_set_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "cpu_quota", lambda: 1.0)
    monkeypatch.setattr(processors, "_allowed", lambda: 8)
    for chosen in (
        {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "active", "OPENBLAS_NUM_THREADS": "2"},
        {"OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": "9", "OPENBLAS_NUM_THREADS": "8"},
    ):
        monkeypatch.setattr(os, "environ", dict(chosen))
        processors.share_processors()
        assert os.environ == chosen


def test_torch_and_numpy_are_told_in_time() -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OPENBLAS_NUM_THREADS")
    }
    environment |= {"OMP_DISPLAY_ENV": "verbose", "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", TOLD], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("threads beside this one: 0\n")
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch is built with another OpenMP")
    assert f"GOMP_SPINCOUNT = '{processors.SPINS}'" in done.stderr
