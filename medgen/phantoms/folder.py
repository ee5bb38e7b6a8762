"""Any kind of phantom -> a folder of cases and tables, by several processes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medgen.artifacts.outputs.whole import atomic_folder, storage_errors
from medgen.errors import MedgenError, UnavailableError
from medgen.imaging.cases.workers import WorkerDied, Workers
from medgen.imaging.labels.rows import RowWriter
from medgen.phantoms.options import PhantomOptions
from medgen.phantoms.pictures import Rows
from medgen.reporting import Advance, unseen

# Each kind is one module: TABLES (columns by file name), FOLDERS, and
# write_case(options, index, folder) -> rows by table. One with label maps has CLASSES, the names of their values.
MODULES = {
    "chest-ct": "medgen.phantoms.chest.chest_ct",
    "dental": "medgen.phantoms.dental.dental_xray",
    "fundus": "medgen.phantoms.fundus.fundus",
    "chest-xray": "medgen.phantoms.chest.chest_xray",
    "oct": "medgen.phantoms.oct",
    "brain-mri": "medgen.phantoms.brain_mri",
    "endoscopy": "medgen.phantoms.endoscopy.endoscopy",
}


def make_folder(
    kind: str,
    options: PhantomOptions,
    count: int,
    destination: Path,
    *,
    workers: int,
    force: bool = False,
    advance: Advance = unseen,
) -> dict[str, int]:
    """Write `count` cases and the tables of the kind into a new folder; the number of rows of each table."""
    module = importlib.import_module(MODULES[kind])
    tables: Rows = {name: [] for name in module.TABLES}
    with atomic_folder(destination, force=force) as folder:
        for name in module.FOLDERS:
            (folder / name).mkdir()
        jobs = [_Job(module.__name__, options, index, folder, destination) for index in range(count)]
        for rows in _cases(jobs, min(workers, count)):
            for name, more in rows.items():
                tables[name] += more
            advance()
        for name, columns in module.TABLES.items():
            _write_table(folder / name, (columns, *tables[name]))
        if hasattr(module, "CLASSES"):
            classes = ((name, value) for value, name in enumerate(module.CLASSES))
            _write_table(folder / "classes.csv", (("name", "value"), *classes))
    return {name: len(rows) for name, rows in tables.items()}


def _write_table(file: Path, rows: Sequence[tuple[object, ...]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = RowWriter(opened)
        for row in rows:
            writer.write(row)


@dataclass(frozen=True)
class _Job:
    """One case to be made."""

    module: str
    options: PhantomOptions
    index: int
    folder: Path
    destination: Path

    def __str__(self) -> str:
        return f"case {self.index}"


def _cases(jobs: Sequence[_Job], workers: int) -> Iterator[Rows]:
    """The rows of each case, in order of the cases."""
    if workers <= 1:
        yield from map(_make, jobs)
        return
    with Workers(workers) as pool:
        for _, rows in pool.map(_make, jobs):
            if isinstance(rows, WorkerDied):
                raise UnavailableError(str(rows))
            if isinstance(rows, MedgenError):
                raise rows
            yield rows


def _make(job: _Job) -> Rows:
    with storage_errors(job.destination):
        rows: Rows = importlib.import_module(job.module).write_case(job.options, job.index, job.folder)
    return rows
