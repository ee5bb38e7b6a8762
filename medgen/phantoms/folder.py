"""Any kind of phantom -> a folder of cases and tables, by several processes."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType
from typing import Any

from medgen.artifacts.outputs.whole import atomic_folder
from medgen.config import nearest
from medgen.errors import UnavailableError, UsageError
from medgen.imaging.labels.rows import RowWriter
from medgen.phantoms.options import ChestCTOptions, DentalOptions, PhantomOptions

# Each kind is one module: TABLES (columns by file name), FOLDERS, and
# write_case(options, index, folder) -> rows by table.
KINDS: dict[str, tuple[str, type[PhantomOptions]]] = {
    "chest-ct": ("medgen.phantoms.chest.chest_ct", ChestCTOptions),
    "dental": ("medgen.phantoms.dental.dental_xray", DentalOptions),
}


def options_of(kind: str) -> type[PhantomOptions]:
    """The options struct of a kind; UsageError if there is none."""
    if kind not in KINDS:
        match = nearest(kind, KINDS)
        hint = f"did you mean '{match}'?" if match else f"kinds: {', '.join(KINDS)}"
        raise UsageError(f"no phantom '{kind}'; {hint}")
    return KINDS[kind][1]


def make_folder(
    kind: str,
    options: PhantomOptions,
    count: int,
    destination: Path,
    *,
    workers: int,
    force: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Write `count` cases and the tables of the kind into a new folder; the number of rows of each table."""
    module = importlib.import_module(KINDS[kind][0])
    tables: dict[str, list[tuple[object, ...]]] = {name: [] for name in module.TABLES}
    with atomic_folder(destination, force=force) as folder:
        for name in module.FOLDERS:
            (folder / name).mkdir()
        for rows in _cases(module, options, count, folder, min(workers, count)):
            for name, more in rows.items():
                tables[name] += more
            advance()
        for name, columns in module.TABLES.items():
            with (folder / name).open("w", newline="", encoding="utf-8") as file:
                writer = RowWriter(file)
                for row in (columns, *tables[name]):
                    writer.write(row)
    return {name: len(rows) for name, rows in tables.items()}


def _cases(
    module: ModuleType, options: PhantomOptions, count: int, folder: Path, workers: int
) -> Iterator[dict[str, list[tuple[object, ...]]]]:
    """The rows of each case, in order of the cases."""
    if workers <= 1:
        for index in range(count):
            yield module.write_case(options, index, folder)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts_to_parent)
    with contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        jobs = [pool.submit(_case, module.__name__, options, index, folder) for index in range(count)]
        for index, job in enumerate(jobs):
            try:
                yield job.result()
            except BrokenProcessPool:
                raise UnavailableError(
                    f"case {index}: a worker process died, perhaps for lack of memory; try --workers 1"
                ) from None


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _case(module: str, options: Any, index: int, folder: Path) -> Any:
    return importlib.import_module(module).write_case(options, index, folder)
