"""Processes that work on numbered tasks; results come back in order, a bounded number ahead.

Processes are used because the DICOM decoders hold the interpreter's lock: two threads gain nothing, two processes are
twice as fast. When the main process dies, however it dies, its workers end too, even in the middle of a task. When a
worker dies, another replaces it, and only its current task has failed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

from medgen.errors import DataError, MedgenError
from medgen.imaging.cases.messages import receive, send
from medgen.memory import keep_freed_memory
from medgen.processors import processors

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 4  # tasks a worker that may be under way or waiting to be fetched
SAFE_PATH = "PYTHONSAFEPATH"
QUEUED = 2  # tasks a worker holds, so that it need not wait for the next; small enough to fit into the pipe


class WorkerDied(DataError):
    """The process that worked on a task crashed, or was killed."""


def prepare() -> None:
    """Start the server that creates workers, so that it imports what they need while the caller does other things.

    The server has no threads; it imports everything once and forks the workers.
    """
    forkserver.set_forkserver_preload(["__main__", "medgen.imaging.cases.work", "medgen.imaging.reading.pixels"])
    with _no_modules_from_here():
        forkserver.ensure_running()


@contextlib.contextmanager
def _no_modules_from_here() -> Iterator[None]:
    """Keep Pythons that are started inside the block from importing files of the folder we are in, like `random.py`."""
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


class Workers:
    """`count` processes (0: one per core), used as a context manager; leaving it ends them."""

    def __init__(self, count: int = 0) -> None:
        prepare()
        self._count = count or processors()
        self._context = multiprocessing.get_context("forkserver")
        self._processes: dict[Connection, BaseProcess] = {}  # by our end of the pipe to each

    def __enter__(self) -> Workers:
        for _ in range(self._count):
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._processes:
            pipe.close()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join()

    def _start(self) -> Connection:
        """Start a worker; the pipe to it."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process
        return ours

    def _death(self, pipe: Connection, task: object) -> WorkerDied:
        """Clean up after the dead worker at the other end, and say how it died."""
        pipe.close()
        process = self._processes.pop(pipe)
        process.join()
        code = process.exitcode or 0
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        hint = "; if memory ran out, use fewer --workers" if code == -signal.SIGKILL else ""
        return WorkerDied(f"{task}: the worker process on it was {reason}{hint}")

    def map(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | MedgenError]]:
        """Yield (task, result) in the order of `tasks`; a MedgenError of the work comes in place of a result.

        So does WorkerDied, if the worker died at it. Any other exception is raised here with the task that caused it.
        """
        source = enumerate(tasks)
        tasks_of: dict[int, Task] = {}  # taken and not yet yielded
        done: dict[int, Result | MedgenError] = {}
        queues: dict[Connection, deque[int]] = {pipe: deque() for pipe in self._processes}
        following, exhausted = 0, False
        while True:
            while not exhausted and len(tasks_of) < AHEAD * self._count:
                pipe = min(queues, key=lambda pipe: len(queues[pipe]))
                if len(queues[pipe]) == QUEUED:
                    break
                taken = next(source, None)
                if taken is None:
                    exhausted = True
                    break
                number, tasks_of[taken[0]] = taken
                queues[pipe].append(number)
                _send(pipe, work, tasks_of[number])
            if following in done:
                task, outcome = tasks_of.pop(following), done.pop(following)
                if isinstance(outcome, BaseException) and not isinstance(outcome, MedgenError):
                    raise RuntimeError(f"{task}: {type(outcome).__name__}: {outcome}") from outcome
                yield task, outcome
                following += 1
            elif busy := [pipe for pipe, queue in queues.items() if queue]:
                for ready in wait(busy):
                    pipe = cast(Connection, ready)
                    number = queues[pipe].popleft()
                    try:
                        done[number] = receive(pipe)
                    except (EOFError, OSError):
                        done[number] = self._death(pipe, tasks_of[number])
                        heir, orphans = self._start(), queues.pop(pipe)
                        queues[heir] = orphans
                        for orphan in orphans:
                            _send(heir, work, tasks_of[orphan])
            else:
                return


def _end_with_parent() -> None:
    """Wait until the main process dies, then end at once: nobody needs the current task any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _send(pipe: Connection, work: Callable[[Task], object], task: Task) -> None:
    """Send a task to a worker; if the worker is dead, that shows when its result is missing."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        pipe.send((work, task))


def _serve(pipe: Connection) -> None:
    """The life of a worker: take a task, send its result, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _hush()
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            work, task = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        answer: Any
        try:
            answer = work(task)
        except BaseException as error:  # sent to the main process, which raises it there
            answer = error
        try:
            send(pipe, answer)
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:  # an exception that cannot be sent, such as one with a file in it
            send(pipe, RuntimeError(f"{type(error).__name__}: {error}; while sending {answer!r}"))


def _hush() -> None:
    """Keep what libraries print and log off standard output and away from the user; Python itself can still complain.

    Decoders may print anything; what matters arrives as an exception, or as the death of the process.
    """
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
