"""`phantom chest-ct`: chest CTs with nodules as zipped DICOM, with labels and masks."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np

from medgen.imaging.writing.nifti import affine_of, write_nifti
from medgen.phantoms.captions import FIELDS, Caption, size_word
from medgen.phantoms.chest.anatomy import ChestAnatomy
from medgen.phantoms.chest.ct_scanner import Scanner, ScanSeries
from medgen.phantoms.chest.nodule_placement import add_nodules
from medgen.phantoms.options import ChestCTOptions
from medgen.phantoms.pictures import Rows
from medgen.phantoms.primitives import Grid
from medgen.phantoms.vendors import Habits, Placement, study_files

LABEL_FIELDS = ("case", "slice", "has_nodule", "x", "y", "size", "malignancy", "texture")
NODULE_FIELDS = (
    "case", "nodule", "x_mm", "y_mm", "z_mm", "diameter_mm", "malignancy", "texture", "first_slice", "last_slice",
)  # fmt: skip
TABLES = {
    "labels.csv": LABEL_FIELDS,
    "nodules.csv": NODULE_FIELDS,
    "captions.csv": ("path", "slice", "text", "modality"),
    "truth.csv": ("path", "slice", *FIELDS),
}
FOLDERS = ("dicom", "masks")
SIZES = (10.0, 20.0)  # mm, diameters: medium from, large from


def write_case(options: ChestCTOptions, index: int, folder: Path) -> Rows:
    """Write `dicom/case-<index>.zip` and its mask into `folder`; the rows it adds to each of `TABLES`.

    A case depends only on the options (seed included) and its index. The anatomy does not depend on slice thickness, so
    the same seed and extent give the same chest in thick and in thin slices. Where there are two series, the truth is
    that of the first.
    """
    build, scan, tagging = (np.random.default_rng([options.seed, index, part]) for part in range(3))
    name = f"case-{index:04d}"
    extent = options.slices * options.step
    anatomy = ChestAnatomy.draw(build)
    middle = build.uniform(-38.0, -8.0)
    ill = build.random() >= options.healthy_fraction
    wanted = int(build.integers(options.nodules[0], options.nodules[1] + 1)) if ill else 0
    height = (middle - 0.5 * extent, middle + 0.5 * extent)
    anatomy = add_nodules(build, anatomy, wanted, options.diameter, height, options.texture)
    pixel = round(anatomy.shapes.field_of_view(build.uniform(8.0, 40.0)) / options.size, 6)
    grid = Grid(options.size, pixel, build.normal(0.0, 4.0), 8.0 + build.normal(0.0, 4.0))
    table = np.round(build.uniform([-8.0, -190.0, -320.0], [8.0, -130.0, -60.0]), 1)  # anatomy -> patient coordinates

    series = [ScanSeries(middle, options.slices, options.step, options.thickness)]
    if options.thick is not None:
        step = options.thick_spacing or options.thick
        series.append(ScanSeries(middle, max(1, int(extent / step + 1e-6)), step, options.thick))
    scanner = Scanner.draw(scan).at_dose(options.noise)
    images, masks = scanner.scan((options.seed, index, 1), anatomy, grid, series, options.pitch)
    places = []
    for one in series:
        first = (*grid.first, float(one.heights[0]))
        x, y, z = (round(place + float(shift), 3) for place, shift in zip(first, table, strict=True))
        places.append(Placement((x, y, z), pixel, one.step, one.thickness))

    habits = Habits.draw(tagging, options.scout_fraction)
    parts = ("chest-ct", options.seed, index, options.size, options.slices, options.step, options.thickness)
    stacks = list(zip(images, places, strict=True))
    files = study_files(tagging, habits, f"PHANTOM-{index:04d}", parts, _patient(options, index), stacks)
    (folder / "dicom" / f"{name}.zip").write_bytes(archive(files, packed=bool(tagging.random() < 0.2)))
    union = np.zeros(images[0].shape, np.uint8)
    for mask in masks:
        union |= mask
    direction = (0, 0, 1, 0, 1, 0, 1, 0, 0)
    affine = affine_of((options.step, pixel, pixel), places[0].origin, direction)
    write_nifti(folder / "masks" / f"{name}.nii.gz", union, affine)
    path, captions = f"dicom/{name}.zip", [_caption(anatomy, masks, level, pixel) for level in range(options.slices)]
    return {
        "labels.csv": _labels(name, anatomy, masks, options.size),
        "nodules.csv": _nodules(name, anatomy, masks, table),
        "captions.csv": [(path, level, one.text, one.modality) for level, one in enumerate(captions)],
        "truth.csv": [(path, level, *one.row) for level, one in enumerate(captions)],
    }


def _patient(options: ChestCTOptions, index: int) -> tuple[object, ...]:
    """What decides which person is scanned, and where: the frame of reference is the same for all reconstructions."""
    extent = round(options.slices * options.step, 3)
    return ("chest-ct", options.seed, index, extent, options.nodules, options.diameter, options.healthy_fraction)


def archive(files: list[tuple[str, bytes]], *, packed: bool) -> bytes:
    """A ZIP of `files` that depends on neither the clock nor the machine."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, content in files:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            bundle.writestr(info, content, compresslevel=1 if packed else None)
    return buffer.getvalue()


def _labels(name: str, anatomy: ChestAnatomy, masks: list[np.ndarray], size: int) -> list[tuple[object, ...]]:
    """A row for each slice with a nodule: the largest one's box as fractions of the image, its ratings in [0, 1]."""
    rows: list[tuple[object, ...]] = []
    areas = [mask.sum(axis=(1, 2)) for mask in masks]
    for level in np.flatnonzero(np.any(areas, axis=0)).tolist() if masks else ():
        which = int(np.argmax([area[level] for area in areas]))
        ys, xs = np.nonzero(masks[which][level])
        x, y = (int(xs.min()) + int(xs.max()) + 1) / 2 / size, (int(ys.min()) + int(ys.max()) + 1) / 2 / size
        longest = max(int(np.ptp(xs)), int(np.ptp(ys))) + 1
        nodule = anatomy.nodules[which]
        ratings = ((nodule.malignancy - 1) / 4, (nodule.texture - 1) / 4)
        rows.append(
            (
                name,
                level,
                1,
                f"{x:.6f}",
                f"{y:.6f}",
                f"{longest / size:.6f}",
                *(f"{value:.4f}" for value in ratings),
            )
        )
    return rows


def _caption(anatomy: ChestAnatomy, masks: list[np.ndarray], level: int, pixel: float) -> Caption:
    """The caption of one slice: sizes as it cuts the nodules, and no side where both lungs have nodules in it."""
    areas = [float(mask[level].sum()) * pixel**2 for mask in masks]
    cut = [nodule for nodule, area in zip(anatomy.nodules, areas, strict=True) if area]
    if not cut:
        return Caption("chest ct", "chest")
    sides = {"left" if nodule.centre[0] > 0 else "right" for nodule in cut}
    size = size_word((2.0 * math.sqrt(area / math.pi) for area in areas if area), SIZES)
    organ, side = ("lung", sides.pop()) if len(sides) == 1 else ("chest", "")
    return Caption("chest ct", organ, side, "nodule", size, len(cut))


def _nodules(name: str, anatomy: ChestAnatomy, masks: list[np.ndarray], shift: np.ndarray) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for number, nodule in enumerate(anatomy.nodules):
        seen = np.flatnonzero(masks[number].any(axis=(1, 2))).tolist()
        centre = (f"{place + move:.2f}" for place, move in zip(nodule.centre, shift, strict=True))
        ends = (seen[0], seen[-1]) if seen else ("", "")
        rows.append((name, number, *centre, f"{nodule.diameter:.2f}", nodule.malignancy, nodule.texture, *ends))
    return rows
