"""A set -> files that other programs open: which cases, under which names, with which table."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medgen.artifacts.classes import class_called
from medgen.artifacts.schema import TEXT_NAMES, Case, Intensity, SetHeader
from medgen.errors import DataError
from medgen.imaging.labels.rows import RowWriter
from medgen.imaging.writing.dicom import write_dicom
from medgen.imaging.writing.masks import CLASSES, write_classes
from medgen.imaging.writing.nifti import write_case as write_nifti_case
from medgen.imaging.writing.nnunet import NnUNetFolder
from medgen.imaging.writing.options import ExportOptions
from medgen.imaging.writing.png import physical_scale, write_png
from medgen.reporting import Advance, unseen

CONDITIONS = "conditions.csv"
LONGEST_NAME = 100
_MASK = re.compile(r"_mask\d*$")


def export_cases(
    header: SetHeader,
    cases: Iterable[Case],
    folder: Path,
    options: ExportOptions,
    advance: Advance = unseen,
) -> tuple[int, int]:
    """Write the chosen cases into `folder`; returns the numbers of cases and slices.

    Each case is a file or folder named after its id. `conditions.csv` lists for each slice its file, case, split,
    whether and how a model made it, the conditions that the set holds, and the score if it was selected. A mask is a
    separate file beside its image, and `classes.json` names the classes. DataError if the set holds no images or no
    case is chosen.
    """
    if header.kind == "latent":
        raise DataError("a latent set holds no images; export the image set it was made from")
    names = FileNames()
    count = slices = 0
    nnunet = NnUNetFolder(folder, header, options.bits) if options.to == "nnunet" else None
    write = nnunet.write if nnunet else partial(_write, folder, header, options)
    with (folder / CONDITIONS).open("w", newline="", encoding="utf-8") as file:
        table = RowWriter(file)
        for case in _chosen(cases, options):
            if count == 0:
                table.write(["file", "case", "slice", "split", "synthetic", *_columns(header, case)])
                if options.to == "png":
                    _write_scale(folder, header, case, options.bits)
                if "mask" in case.arrays and nnunet is None:
                    write_classes(folder, header, shown=options.to == "png")
            files = write(names.take(case.id), case)
            for index, name in enumerate(files):
                table.write([name, case.id, index, case.split, case.synthetic, *_values(header, case, index)])
            count += 1
            slices += len(case)
            advance()
    if count and nnunet:
        nnunet.finish()
    if not count:
        raise DataError(f"no case is in split '{options.split}'" if options.split else "the set holds no case")
    return count, slices


def _chosen(cases: Iterable[Case], options: ExportOptions) -> Iterator[Case]:
    """The cases asked for. A stream is still read to its end, so that truncation is noticed."""
    taken = 0
    for case in cases:
        if options.split not in (None, case.split) or (options.limit is not None and taken >= options.limit):
            continue
        taken += 1
        yield case


def _write(folder: Path, header: SetHeader, options: ExportOptions, name: str, case: Case) -> list[str]:
    if options.to == "dicom":
        return write_dicom(folder, name, case, header)
    if options.to == "nifti":
        return write_nifti_case(folder, name, case, header)
    return write_png(folder, name, case, header, bits=options.bits)


def _columns(header: SetHeader, case: Case) -> list[str]:
    vector = list(header.vector_fields) if "vector" in case.arrays else []
    return vector + [name for name in ("label", "quality") if name in case.arrays] + list(TEXT_NAMES)


def _values(header: SetHeader, case: Case, index: int) -> list[Any]:
    values: list[Any] = [f"{value:.6g}" for value in case["vector"][index]] if "vector" in case.arrays else []
    if "label" in case.arrays:
        values.append(class_called(header, int(case["label"][index])))
    if "quality" in case.arrays:
        values.append(f"{case['quality'][index]:.5g}")
    return values + [(getattr(case, name) or [""] * len(case))[index] for name in TEXT_NAMES]


def _write_scale(folder: Path, header: SetHeader, case: Case, bits: int) -> None:
    """How to get physical values back from the pixels."""
    intensity = header.intensity or Intensity(unit="", window=(-1.0, 1.0))
    scale, offset = physical_scale(intensity, np.asarray(case["image"]).dtype, bits)
    facts = {"rule": "physical = pixel * scale + offset", "scale": scale, "offset": offset, "unit": intensity.unit}
    (folder / "intensity.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


class FileNames:
    """Case ids -> file names that are safe, stay in their folder, and differ even on case-insensitive file systems."""

    def __init__(self) -> None:
        self._taken: set[str] = {CONDITIONS, "intensity.json", CLASSES}

    def take(self, case_id: str) -> str:
        """A name of letters, digits, `_`, `-` and inner dots. A changed one, or one like a mask's, gets a hash."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", case_id).strip(".")[:LONGEST_NAME]
        if not name or name != case_id or name.lower() in self._taken or _MASK.search(name):
            name = f"{name or 'case'}-{hashlib.sha256(case_id.encode()).hexdigest()[:8]}"
        if name.lower() in self._taken:
            raise DataError(f"case {case_id}: occurs twice in the set; its files would overwrite each other")
        self._taken.add(name.lower())
        return name
