"""A set -> the folder of raw data that nnU-Net v2 reads: imagesTr, labelsTr, imagesTs, labelsTs and dataset.json.

Layout: https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.artifacts.label_maps import BACKGROUND, mask_names
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.synthetic import describe
from medgen.errors import DataError
from medgen.imaging.writing.masks import label_map_of
from medgen.imaging.writing.nifti import affine_of, write_nifti
from medgen.imaging.writing.placement import UNPLACED, check_even
from medgen.imaging.writing.png import eight_bits, save_png, sixteen_bits

_COLOURS = ("R", "G", "B")


class NnUNetFolder:
    """Cases go to the training part, except those of the split `test`; nnU-Net draws its folds itself.

    Single slices that are not in HU become PNG files (one file for three channels), all else NIfTI, one file per
    channel. The first case decides, because all files must have the same ending.
    """

    def __init__(self, folder: Path, header: SetHeader, bits: int) -> None:
        self._folder = folder
        self._header = header
        self._bits = bits
        self._intensity = header.intensity or Intensity(unit="", window=(-1.0, 1.0))
        self._ending = ""
        self._channels: tuple[str, ...] = ()
        self._training = 0
        names = mask_names(header)
        if "ignore" in names[:-1]:
            raise DataError("the class 'ignore' must be the last one for nnU-Net; give it another name in preprocess")
        self._labels = {BACKGROUND: 0} | {name: value for value, name in enumerate(names) if value}

    def write(self, name: str, case: Case) -> list[str]:
        """Write image and label map of a case; returns the name of its first image file, once per slice."""
        labels = label_map_of(case, "nnU-Net")
        self._decide(case)
        part = "Ts" if case.split == "test" else "Tr"
        self._training += part == "Tr"
        for kind in ("images", "labels"):
            (self._folder / f"{kind}{part}").mkdir(exist_ok=True)
        image, label = f"images{part}/{name}_0000{self._ending}", f"labels{part}/{name}{self._ending}"
        if self._ending == ".png":
            if len(case) > 1:
                raise DataError(
                    f"case {case.id}: has {len(case)} slices, the first case had one and was written as PNG; nnU-Net "
                    "takes one kind of file: export the two kinds of cases separately"
                )
            save_png(self._folder / image, self._pixels(case), describe(case.synthetic))
            save_png(self._folder / label, labels[0])
        else:
            self._write_volumes(case, labels, image, label)
        return [image] * len(case)

    def finish(self) -> None:
        """Write dataset.json; DataError if there is nothing to train on."""
        if not self._training:
            raise DataError("no case is in the training part, which nnU-Net needs: all are in split 'test'")
        facts = {
            "channel_names": {str(number): name for number, name in enumerate(self._channels)},
            "labels": self._labels,
            "numTraining": self._training,
            "file_ending": self._ending,
        }
        text = json.dumps(facts, indent=2, ensure_ascii=False)
        (self._folder / "dataset.json").write_text(text + "\n", encoding="utf-8")

    def _decide(self, case: Case) -> None:
        channels = case.stack("image").shape[1]
        if not self._ending:
            hu = self._intensity.unit == "HU"
            self._ending = ".png" if len(case) == 1 and not hu and channels in (1, 3) else ".nii.gz"
            said = next(filter(None, case.modality), "image")
            self._channels = (
                _COLOURS if channels == 3 else ("CT",) if hu else tuple(f"{said}{n or ''}" for n in range(channels))
            )

    def _pixels(self, case: Case) -> npt.NDArray[Any]:
        """(H, W), or (H, W, 3) of 8 bits: bytes as they are, other values as --bits says."""
        image = case["image"]
        if image.dtype == np.uint8:
            pixels: npt.NDArray[Any] = image[0]
        elif self._bits == 16 and image.shape[1] == 1:
            pixels = sixteen_bits(image, f"case {case.id}")[0]
        else:
            pixels = eight_bits(image, self._intensity, f"case {case.id}")[0]
        return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)

    def _write_volumes(self, case: Case, labels: npt.NDArray[np.uint8], image: str, label: str) -> None:
        check_even(case)
        affine = affine_of(case.spacing, case.origin, case.direction)
        placed = UNPLACED not in case.flaws
        for channel, voxels in enumerate(case["image"].swapaxes(0, 1)):
            write_nifti(
                self._folder / image.replace("_0000.nii", f"_{channel:04d}.nii"),
                voxels,
                affine,
                scale=self._intensity.scale,
                offset=self._intensity.offset,
                unit=self._intensity.unit,
                placed=placed,
                description=describe(case.synthetic),
            )
        write_nifti(self._folder / label, labels, affine, placed=placed)
