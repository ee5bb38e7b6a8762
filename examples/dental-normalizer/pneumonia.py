"""Write PneumoniaMNIST as PNG files and a table for preprocess; of its training images the normal ones alone.

    python pneumonia.py pneumoniamnist.npz OUT

Input: an .npz with `{train,val,test}_images` (N, 28, 28) and `{train,val,test}_labels` (N, 1), 0 for normal. Output:
OUT/*.png and OUT/labels.csv with the splits as they were published.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("normal", "pneumonia")


def main() -> None:
    """Write the pictures and their labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    written = 0
    with (
        np.load(arguments.archive, allow_pickle=False) as arrays,
        (arguments.out / "labels.csv").open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow(["path", "label", "patient", "split"])
        for split in ("train", "val", "test"):
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"].ravel()
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                if split == "train" and label:
                    continue
                name = f"{split}-{number:04d}"
                Image.fromarray(image).save(arguments.out / f"{name}.png")
                table.writerow([f"{name}.png", NAMES[label], name, split])
                written += 1
    parser.exit(message=f"{written} pictures in {arguments.out}\n")


if __name__ == "__main__":
    main()
