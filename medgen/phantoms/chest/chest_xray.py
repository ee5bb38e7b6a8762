"""`phantom chest-xray`: the chest of the CT phantom in projection, with nodules, consolidations and effusions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from medgen.phantoms import pictures
from medgen.phantoms.captions import Caption, size_word
from medgen.phantoms.chest.anatomy import ChestAnatomy
from medgen.phantoms.chest.nodule_placement import add_nodules
from medgen.phantoms.options import ChestXrayOptions
from medgen.phantoms.pictures import NORMAL, LabelledPicture, Rows, ShownFinding
from medgen.phantoms.primitives import Floats, Grid, coverage, enlarge, paint
from medgen.phantoms.xray_detector import XrayDetector

TABLES, FOLDERS = pictures.TABLES, pictures.FOLDERS
CLASSES = ("background", "nodule", "consolidation", "effusion")
LARGEST = 96  # planes and columns that are computed; larger pictures are upsampled
TOP, FIELD = 140.0, 320.0  # mm: height of the picture's upper edge, and its width and height
UNIT = 112.0  # mm of water that attenuate by 1
SEEN = 3.0  # mm of a lesion that a reader outlines
DIAMETERS = {"nodule": (20.0, 44.0), "consolidation": (50.0, 95.0)}
SIZES = {"nodule": (27.0, 35.0), "consolidation": (64.0, 80.0), "effusion": (40.0, 60.0)}  # mm: medium from, large from


def draw(options: ChestXrayOptions, index: int) -> LabelledPicture:
    """The X-ray number `index`; with all chests healthy, the same options give the same person and exposure."""
    build, ill, exposure = (np.random.default_rng([options.seed, index, part]) for part in range(3))
    anatomy = ChestAnatomy.draw(build)
    kind, level, side = NORMAL, -1e3, 1 if ill.random() < 0.5 else -1
    if ill.random() >= options.healthy_fraction:
        kind = str(ill.choice(options.lesions))
    if kind in DIAMETERS:
        count = int(ill.integers(1, 4)) if kind == "nodule" else 1
        low, high = DIAMETERS[kind]
        mildest, worst = (low + (high - low) * severity for severity in options.severity)
        anatomy = add_nodules(ill, anatomy, count, (mildest, worst), (-75.0, 70.0))
        side = 1 if anatomy.nodules and anatomy.nodules[0].centre[0] > 0 else -1
        texture = 4.6 if kind == "nodule" else 2.4
        alike = (one for one in anatomy.nodules if one.centre[0] * side > 0)  # a caption names one side
        nodules = tuple(dataclasses.replace(one, texture=texture) for one in alike)
        anatomy = dataclasses.replace(anatomy, nodules=nodules)
    if kind == "effusion":
        level = pictures.graded(ill, options.severity, 20.0, 80.0)
    size = min(options.size, LARGEST)
    path, depths = _project(anatomy, size, side, level)
    if options.size > size:
        path, depths = (enlarge(one, options.size, options.size) for one in (path, depths))
    image = XrayDetector.draw(exposure).expose(exposure, path / np.float32(UNIT), FIELD / options.size)
    labels = np.zeros(image.shape, np.uint8)
    findings = tuple(ShownFinding(kind, depth > SEEN) for depth in depths if (depth > SEEN).any())
    for finding in findings:
        labels[finding.mask] = CLASSES.index(kind)
    if not findings:
        return LabelledPicture(np.clip(image, 0.0, 1.0), labels, (), NORMAL, Caption("chest x-ray", "chest"))
    lengths = [nodule.diameter for nodule in anatomy.nodules] or [level]
    hand, size_of = "left" if side > 0 else "right", size_word(lengths, SIZES[kind])
    caption = Caption("chest x-ray", "lung", hand, kind, size_of, len(findings))
    return LabelledPicture(np.clip(image, 0.0, 1.0), labels, findings, kind, caption)


def _project(anatomy: ChestAnatomy, size: int, side: int, level: float) -> tuple[Floats, Floats]:
    """Millimetres of water along y through the chest, (size, size), and of each lesion, (K, size, size); head up."""
    grid = Grid(size, FIELD / size)
    path = np.zeros((size, size), np.float32)
    depths = np.zeros((max(1, len(anatomy.nodules)), size, size), np.float32)
    for row in range(size):
        z = TOP - (row + 0.5) * grid.pixel
        hu, covers = anatomy.plane(z, grid)
        hu = np.where(grid.y > anatomy.table_y - 2.0, np.float32(-1000.0), hu)  # nobody lies on a table
        for depth, cover in zip(depths, covers, strict=False):
            depth[row] = cover.sum(axis=0) * grid.pixel
        lungs = np.asarray(anatomy.shapes.lungs(grid.x, grid.y, np.float32(z)), np.float32)
        beside = np.abs(np.abs(grid.x) - 48.0) / 56.0
        apex = anatomy.shapes.apex - 40.0 * beside**2.5  # rounded as seen from the front
        paint(hu, np.float32(20.0), coverage(np.maximum(lungs, apex - z), 2.0 * grid.pixel))
        dome = anatomy.shapes.dome[0]
        if z < dome + level + 20.0:  # water stands highest at the wall, as a meniscus, and at the back
            height = dome + level * (0.35 + 0.65 * np.clip(np.abs(grid.x) / 115.0, 0.0, 1.2) ** 2) + 0.2 * grid.y
            wet = (lungs < 0) & (grid.x * side > 0) & (z < height)
            hu = np.where(wet, np.float32(8.0), hu)
            depths[0, row] = wet.sum(axis=0) * grid.pixel
        bone = np.maximum(hu - 150.0, 0.0)
        path[row] = np.maximum(1.0 + (hu + 1.5 * bone) / 1000.0, 0.0).sum(axis=0) * grid.pixel
    return path, depths


def write_case(options: ChestXrayOptions, index: int, folder: Path) -> Rows:
    """Write image and mask number `index` into `folder`; the rows it adds to each of `TABLES`."""
    return draw(options, index).write(index, index, folder)
