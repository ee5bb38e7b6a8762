"""Cut crops from a table of LIDC nodule patches, so that each nodule sits at a chosen place of its crop.

    python patches.py nodule_patches_71x71_int16.npz nodule_patches.csv OUT [--size 48] [--crops 4]

Input: an .npz with `noduleID` (N,) and `patch` (N, 71, 71) of stored pixel values with the nodule in the middle, and
a CSV with a row a nodule. Output: OUT/nifti/*.nii (a stack of crops a nodule, HU) and OUT/labels.csv, for preprocess.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import nibabel
import numpy as np

FIELDS = ("has_nodule", "x", "y", "size", "malignancy", "texture")


def hounsfield(patch: np.ndarray) -> np.ndarray:
    """Stored values -> HU: most scanners' patches carry an offset of 1024, a few are HU already."""
    values = patch.astype(np.int16)
    return values if np.median(values) < 0 else values - 1024


def main() -> None:
    """Write the crops and their labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patches", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=48, help="side of a crop in pixels")
    parser.add_argument("--crops", type=int, default=4, help="crops a nodule, each at another place")
    parser.add_argument("--margin", type=float, default=0.26, help="the nodule's centre stays in [margin, 1 - margin]")
    arguments = parser.parse_args()

    with np.load(arguments.patches, allow_pickle=False) as file:
        patches = dict(zip(file["noduleID"].tolist(), file["patch"], strict=True))
    with arguments.table.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if int(row["noduleID"]) in patches]
    (arguments.out / "nifti").mkdir(parents=True, exist_ok=True)
    size, written = arguments.size, 0
    with (arguments.out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["case", "patient", "slice", *FIELDS])
        for row in rows:
            number, spacing = int(row["noduleID"]), float(row["PixelSpacing"])
            patch = hounsfield(patches[number])
            side = float(row["MajorAxisLength"]) / spacing / size  # longest side / width of the crop
            if not 3 / size <= side <= 0.7:
                continue  # too small to be seen at all, or larger than the crop
            centre = (patch.shape[0] - 1) / 2
            random = np.random.default_rng(number)
            low = int(np.ceil(max(0, centre + 0.5 - (1 - arguments.margin) * size)))
            high = int(min(patch.shape[0] - size, centre + 0.5 - arguments.margin * size))
            crops = []
            for index in range(arguments.crops):
                left, top = random.integers(low, high + 1, 2)
                crops.append(patch[top : top + size, left : left + size])
                x, y = (centre + 0.5 - left) / size, (centre + 0.5 - top) / size
                malignancy, texture = ((float(row[name]) - 1) / 4 for name in ("malignancy", "texture"))
                values = (1, x, y, side, malignancy, texture)
                table.writerow([f"n{number:04d}", row["patient"], index, *(f"{value:.4f}" for value in values)])
            volume = np.stack(crops).transpose(2, 1, 0)  # (x, y, slice)
            image = nibabel.Nifti1Image(volume, np.diag([-spacing, -spacing, 1.0, 1.0]))
            nibabel.save(image, arguments.out / "nifti" / f"n{number:04d}.nii")
            written += 1
    parser.exit(message=f"{written} nodules, {written * arguments.crops} crops in {arguments.out}\n")


if __name__ == "__main__":
    main()
