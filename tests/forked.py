"""The command as a process of its own, which does not wait for its imports: it forks from one that has made them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.reduction import DupFd
from typing import Any

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "h5py", "pydicom", "scipy.ndimage", "skimage.io", "medgen.cli.app"])
STREAMS = ("stdin", "stdout", "stderr")


def _command(arguments: Sequence[str], folder: str, environment: dict[str, str], streams: Sequence[Any]) -> None:
    """What the forked process does, with the streams that its parent gave it."""
    from medgen.cli.app import main

    for number, stream in enumerate(streams):
        os.dup2(stream.detach(), number)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate("rww"))  # noqa: SIM115
    sys.stderr.reconfigure(line_buffering=True)
    tempfile.tempdir = None
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["medgen", *arguments]
    main()


def run_forked(arguments: Sequence[str], *, timeout: float, **given: Any) -> subprocess.CompletedProcess[bytes]:
    """As subprocess.run does, with `input` and the streams given or else captured; TimeoutExpired after `timeout` s."""
    content: bytes = given.pop("input", b"")
    read: dict[str, bytes] = {}
    with contextlib.ExitStack() as stack:

        def pipe() -> tuple[Any, Any]:
            out, into = os.pipe()
            return stack.enter_context(open(out, "rb")), stack.enter_context(open(into, "wb"))

        theirs, threads = [], []
        for name in STREAMS:
            stream = given.get(name)
            if stream == subprocess.DEVNULL:
                theirs.append(stack.enter_context(open(os.devnull, "r+b", buffering=0)))
            elif stream is not None:
                theirs.append(stream)
            elif name == "stdin":
                out, into = pipe()
                theirs.append(out)
                threads.append(threading.Thread(target=_feed, args=(into, content)))
            else:
                out, into = pipe()
                theirs.append(into)
                threads.append(threading.Thread(target=lambda name=name, out=out: read.update({name: out.read()})))
        passed = [_Passed(one if isinstance(one, int) else one.fileno()) for one in theirs]
        process = FORKS.Process(target=_command, args=(list(arguments), os.getcwd(), dict(os.environ), passed))
        process.start()
        for one, name in zip(theirs, STREAMS, strict=True):
            if given.get(name) is None:
                one.close()
        for thread in threads:
            thread.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), timeout)
        for thread in threads:
            thread.join(timeout)
    return subprocess.CompletedProcess(list(arguments), process.exitcode, read.get("stdout"), read.get("stderr"))


class _Passed:
    """A file descriptor on its way into the process that is forked."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _same, (DupFd(self._number),)


def _same(descriptor: Any) -> Any:
    return descriptor


def _feed(into: Any, content: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), into:
        into.write(content)
