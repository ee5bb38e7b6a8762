"""Workers keep the order, a bounded lead, and never hide what happened to them."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator

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


def shout(task: int) -> int:
    os.write(1, b"noise on standard output")
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


def test_several_processes_work_and_none_stays(capfd: pytest.CaptureFixture[str]) -> None:
    with Workers(2) as workers:
        pids = {result for _, result in workers.map(shout, range(40))}
    assert os.getpid() not in pids
    assert "noise" not in capfd.readouterr().out  # a library that prints cannot reach the artifact
    for pid in pids:
        assert isinstance(pid, int)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
