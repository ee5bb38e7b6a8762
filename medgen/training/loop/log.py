"""Where a training reports its progress: to the console, a JSON-lines file and TensorBoard."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medgen.artifacts.outputs.whole import check_output
from medgen.errors import OutputError, StorageError, UnavailableError


class Log:
    """Figures by step, to `file` (one JSON object a line) and `tensorboard` (a folder); either may be None.

    A file begun by the same training `run` is continued: lines after step `start` are removed.
    Any other file is kept: OutputError unless `force`.
    """

    def __init__(self, file: Path | None, tensorboard: Path | None, *, run: str, start: int, force: bool) -> None:
        self._file, self._stream = file, None
        if file is not None:
            kept = _length_until(file, run, start)
            if kept is None:
                check_output(file, force=force)
            with self._writing():
                self._stream = file.open("w" if kept is None else "r+", encoding="utf-8", buffering=1)
                if kept is None:
                    self._stream.write(json.dumps({"run": run}) + "\n")
                else:
                    self._stream.truncate(self._stream.seek(kept))
        self._board: Any = _summary_writer(tensorboard, start) if tensorboard is not None else None

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Add the figures after `step` steps, if there are any."""
        if not figures:
            return
        if self._stream is not None:
            with self._writing():
                self._stream.write(json.dumps({"step": step, **figures}) + "\n")
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both."""
        if self._stream is not None:
            with self._writing():
                self._stream.close()
        if self._board is not None:
            self._board.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"{self._file}: the log cannot be written: {error.strerror or error}; free some space; the same "
                "command then continues from the last saved state"
            ) from error


def _length_until(file: Path, run: str, start: int) -> int | None:
    """Bytes of the lines up to step `start` if `run` began the file, else None."""
    try:
        first, *lines = file.read_bytes().splitlines(keepends=True)
        if json.loads(first) != {"run": run}:
            return None
        length = len(first)
        for line in lines:
            if not line.endswith(b"\n") or json.loads(line)["step"] > start:
                break
            length += len(line)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return length


def _summary_writer(folder: Path, start: int) -> Any:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; name a folder for TensorBoard")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UnavailableError("TensorBoard is not installed; pip install 'medgen[tensorboard]'") from None
    writer: Any = SummaryWriter  # its signature is not typed
    return writer(str(folder), purge_step=start + 1 if start else None)
