"""Workers keep the order, a bounded lead, and never hide what happened to them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medgen.errors import DataError
from medgen.imaging.cases.workers import AHEAD, WorkerDied, Workers


def square(task: int) -> int:
    time.sleep(0.002 * (task % 3))
    return task * task


def mixed(task: int) -> int:
    if task == 2:
        raise DataError("two is bad")
    if task == 4:
        raise ZeroDivisionError("four is a bug")
    return task


def die(task: int) -> int:
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


class Panic(BaseException):
    """As what pyo3 raises when Rust panics."""


def panic(task: int) -> int:
    raise Panic("in Rust")


class Unsendable(Exception):
    def __reduce__(self) -> str:
        raise TypeError("this stays here")


def keep(task: int) -> int:
    raise Unsendable("a bug with a file in it")


def process_of(task: int) -> int:
    return os.getpid()


def test_results_come_in_order_with_a_bounded_lead() -> None:
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        for task in range(60):
            taken += 1
            yield task

    with Workers(2) as workers:
        for count, (task, result) in enumerate(workers.map(square, tasks())):
            assert (task, result) == (count, count * count)
            assert taken <= count + 2 * AHEAD + 1
    assert taken == 60


def test_faults_of_the_data_are_results_and_bugs_are_raised_with_their_task() -> None:
    seen = []
    with Workers(2) as workers, pytest.raises(RuntimeError, match="4: ZeroDivisionError: four is a bug"):
        for _, result in workers.map(mixed, range(6)):
            seen.append(result)
    assert (seen[:2], seen[3:]) == ([0, 1], [3])
    assert isinstance(seen[2], DataError)


def test_an_exception_that_cannot_be_sent_is_still_told() -> None:
    with Workers(1) as workers, pytest.raises(RuntimeError, match=r"0: .*this stays here; while sending Unsendable"):
        list(workers.map(keep, range(1)))


def test_the_death_of_a_worker_is_told_with_its_task_and_costs_no_other() -> None:
    with Workers(2) as workers:
        results = dict(workers.map(die, range(12)))
    told = results.pop(3)
    assert isinstance(told, WorkerDied)
    assert re.fullmatch(r"3: the worker process .* killed by SIGKILL; .* fewer --workers", str(told))
    assert results == {task: task for task in range(12) if task != 3}


def test_an_exception_that_is_none_is_told_too() -> None:
    with Workers(1) as workers, pytest.raises(RuntimeError, match="0: Panic: in Rust"):
        list(workers.map(panic, range(1)))


def test_several_processes_work_and_none_stays() -> None:
    with Workers(2) as workers:
        pids = {result for _, result in workers.map(process_of, range(40))}
    assert os.getpid() not in pids
    for pid in pids:
        assert isinstance(pid, int)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


PATIENT = """
import os, sys, time
from medgen.imaging.cases.workers import Workers

def work(folder):
    open(os.path.join(folder, str(os.getpid())), "w").close()
    time.sleep(3600)

if __name__ == "__main__":
    with Workers(2) as workers:
        list(workers.map(work, [sys.argv[1]] * 2))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the list of processes from /proc")
def test_workers_in_the_middle_of_a_task_die_with_their_parent(tmp_path: Path) -> None:
    script, folder = tmp_path / "patient.py", tmp_path / "pids"
    script.write_text(PATIENT)
    folder.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(folder)])
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = [path.name for path in folder.iterdir()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    while any(_lives(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_lives(pid) for pid in pids)


def _lives(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


NOISY = """
import logging, os, sys
from medgen.imaging.cases.workers import Workers

def shout(task):
    os.write(1, b"noise of a library")
    os.write(2, b"noise of a library")
    logging.getLogger("a library").critical("noise")
    print("a word of Python's", file=sys.stderr)
    return task

if __name__ == "__main__":
    with Workers(1) as workers:
        print(sum(result for _, result in workers.map(shout, range(4))))
"""


def test_libraries_that_print_reach_neither_the_artifact_nor_the_user(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    done = subprocess.run([sys.executable, tmp_path / "noisy.py"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("6\n", "a word of Python's\n" * 4)


def test_workers_import_nothing_from_the_folder_that_the_user_is_in(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    for name in ("random.py", "medgen.py", "tempfile.py"):
        (here / name).write_text("raise SystemExit('a file of the user')\n")
    script = elsewhere / "script.py"
    script.write_text(
        "import os\n"
        "from medgen.imaging.cases.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    with Workers(1) as workers:\n"
        "        print(dict(workers.map(abs, [-1, -2])), 'PYTHONSAFEPATH' in os.environ)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=here, env=environment, capture_output=True, text=True, timeout=180
    )
    assert (done.returncode, done.stdout) == (0, "{-1: 1, -2: 2} False\n"), done.stderr
