"""A plain script on pydicom: read and decode every file below a folder, and keep nothing."""

from __future__ import annotations

import argparse
import multiprocessing
from pathlib import Path

import pydicom


def decode(path: Path) -> int:
    return pydicom.dcmread(path).pixel_array.size


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    files = sorted(arguments.folder.rglob("*.dcm"))
    if arguments.processes == 1:
        pixels = [decode(path) for path in files]
    else:
        with multiprocessing.Pool(arguments.processes) as pool:
            pixels = pool.map(decode, files, chunksize=16)
    print(sum(pixels))  # noqa: T201 (a script)


if __name__ == "__main__":
    main()
