"""Exported masks come back, from PNG, NIfTI and SEG, by our own reader and by others; nnU-Net takes its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import starmap
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.cli.app import run

NAMES = ("background", "liver", "tumour")
BYTES = Intensity(unit="grey value", window=(0.0, 255.0))
HU = Intensity()
AXES = (0.0, 0.6, 0.8, 0.0, 0.8, -0.6, 1.0, 0.0, 0.0)


def labels(seed: int, depth: int, classes: int, size: int = 24) -> Any:
    """(D, 1, H, W) blocks of classes; every class is there, and one slice of several has nothing."""
    blocks = np.random.default_rng(seed).integers(0, classes, (depth, size // 4, size // 4))
    blocks[0, 0, :classes] = np.arange(classes)
    if depth > 2:
        blocks[1] = 0
    return np.kron(blocks, np.ones((1, 4, 4), int))[:, None].astype(np.uint8)


def make_set(
    path: Path, *, depth: int = 1, channels: int = 1, hu: bool = False, names: tuple[str, ...] = NAMES, count: int = 3
) -> Path:
    header = SetHeader("image", derive("preprocess", {}), HU if hu else BYTES, mask_names=names)
    with create_set(path, header) as writer:
        for index in range(count):
            shape = (depth, channels, 24, 24)
            low, high = (-900, 900) if hu else (0, 256)
            image = np.random.default_rng(index).integers(low, high, shape).astype(np.int16 if hu else np.uint8)
            writer.write(
                Case(
                    f"case{index}",
                    {"image": image, "mask": labels(index, depth, len(names) or 2)},
                    split=("train", "val", "test")[index % 3],
                    spacing=(2.0, 0.7, 0.6),
                    origin=(10.0, -20.0, 30.5),
                    direction=AXES,
                )
            )
    return path


def cases_of(path: Path) -> tuple[SetHeader, list[Case]]:
    with open_set(path) as reader:
        return reader.header, list(reader)


class Here:
    """A pool of processes that is this one: others would each load torch first."""

    def Pool(self, _: int) -> Here:  # noqa: N802
        return self

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None: ...

    starmap = staticmethod(lambda function, items: list(starmap(function, items)))


def by_image(cases: list[Case]) -> dict[bytes, Any]:
    """Each slice's mask, by the slice's pixels."""
    return {
        image.tobytes(): mask for case in cases for image, mask in zip(case["image"], case["mask"][:, 0], strict=True)
    }


@pytest.mark.parametrize("names", [NAMES, ("background", "polyp")])
@pytest.mark.parametrize(
    ("to", "form"),
    [
        ("png", {"depth": 1, "channels": 3}),
        ("png", {"depth": 1}),
        ("nifti", {"depth": 4, "hu": True}),
        ("nifti", {"depth": 1}),
        ("dicom", {"depth": 4, "hu": True}),
        ("dicom", {"depth": 1, "channels": 3}),
        ("nnunet", {"depth": 1, "channels": 3}),
        ("nnunet", {"depth": 4, "hu": True}),
    ],
)
def test_masks_come_back_as_they_were(tmp_path: Path, to: str, form: dict[str, Any], names: tuple[str, ...]) -> None:
    made = make_set(tmp_path / "set.h5", names=names, **form)
    out, back = tmp_path / "out", tmp_path / "back.h5"
    assert run(["export", str(made), "--to", to, "-o", str(out)]) == 0
    images, masks = (out / "imagesTr", out / "labelsTr") if to == "nnunet" else (out, out)
    call = ["preprocess", str(images), "--masks", str(masks), "--workers", "1", "-o", str(back)]
    assert run(call) == 0
    header, before = cases_of(made)
    again, after = cases_of(back)
    assert again.mask_names == header.mask_names == names
    assert (len(after), again.intensity) == (2 if to == "nnunet" else 3, header.intensity)
    expected, found = by_image(before), by_image(after)
    assert set(found) <= set(expected)
    assert len(found) == sum(len(case) for case in after)
    for pixels, mask in found.items():
        np.testing.assert_array_equal(mask, expected[pixels])


def test_old_masks_without_names_come_back_as_foreground(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set.h5", names=())
    assert cases_of(made)[0].mask_names == ()
    assert run(["export", str(made), "--to", "png", "-o", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/classes.json").read_text()) == {"background": 0, "foreground": 255}
    assert set(np.unique(np.asarray(Image.open(tmp_path / "out/case0_mask.png")))) == {0, 255}


def test_png_masks_of_several_classes_hold_their_numbers(tmp_path: Path) -> None:
    """Times 255 a third class would have become 254 and stayed so."""
    made = make_set(tmp_path / "set.h5")
    assert run(["export", str(made), "--to", "png", "-o", str(tmp_path / "out")]) == 0
    mask = np.asarray(Image.open(tmp_path / "out/case1_mask.png"))
    np.testing.assert_array_equal(mask, labels(1, 1, 3)[0, 0])
    assert json.loads((tmp_path / "out/classes.json").read_text()) == {"background": 0, "liver": 1, "tumour": 2}


def test_highdicom_reads_the_segmentation(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    made = make_set(tmp_path / "set.h5", depth=4, hu=True, count=1)
    assert run(["export", str(made), "--to", "dicom", "-o", str(tmp_path / "out")]) == 0
    read = highdicom.seg.segread(tmp_path / "out/case0_mask.dcm")
    assert [read.get_segment_description(number).segment_label for number in (1, 2)] == list(NAMES[1:])
    slices = [pydicom.dcmread(file) for file in sorted((tmp_path / "out/case0").iterdir())]
    uids = [one.SOPInstanceUID for one in slices]
    found = read.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True, skip_overlap_checks=False
    )
    np.testing.assert_array_equal(found, labels(0, 4, 3)[:, 0])
    volume = read.get_volume(combine_segments=True, allow_missing_positions=True)
    _, (case,) = cases_of(made)
    assert sorted(volume.spacing) == pytest.approx(sorted(case.spacing))
    assert read.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    assert read.PatientID == slices[0].PatientID == "case0"


def test_a_segmentation_without_findings_comes_back_as_a_negative(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set.h5", hu=True)
    header, cases = cases_of(made)
    with create_set(made, header, force=True) as writer:
        for index, case in enumerate(cases):
            writer.write(replace(case, arrays={**case.arrays, "mask": case["mask"] * (index > 0)}))
    assert run(["export", str(made), "--to", "dicom", "-o", str(tmp_path / "out")]) == 0
    call = ["preprocess", str(tmp_path / "out"), "--masks", str(tmp_path / "out"), "--workers", "1"]
    assert run([*call, "-o", str(tmp_path / "back.h5")]) == 65
    assert run([*call, "--masks-optional", "-o", str(tmp_path / "back.h5")]) == 0
    header, back = cases_of(tmp_path / "back.h5")
    assert header.mask_names == NAMES
    assert sorted(bool(case["mask"].any()) for case in back) == [False, True, True]


def test_the_same_set_gives_the_same_segmentation(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set.h5", hu=True, count=1)
    for name in "ab":
        assert run(["export", str(made), "--to", "dicom", "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / "a/case0_mask.dcm").read_bytes() == (tmp_path / "b/case0_mask.dcm").read_bytes()


@pytest.mark.parametrize(
    ("form", "ending", "channels"),
    [
        ({"channels": 3}, ".png", {"0": "R", "1": "G", "2": "B"}),
        ({}, ".png", {"0": "image"}),
        ({"hu": True}, ".nii.gz", {"0": "CT"}),
        ({"hu": True, "depth": 4}, ".nii.gz", {"0": "CT"}),
        ({"depth": 4}, ".nii.gz", {"0": "image"}),
    ],
    ids=["colour", "grey", "CT slices", "CT", "volume"],
)
def test_nnunet_accepts_its_folder(
    tmp_path: Path,
    form: dict[str, Any],
    ending: str,
    channels: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    made = make_set(tmp_path / "set.h5", **form, count=6)
    folder = tmp_path / "Dataset501_Organs"
    assert run(["export", str(made), "--to", "nnunet", "-o", str(folder)]) == 0
    facts = json.loads((folder / "dataset.json").read_text())
    assert facts == {
        "channel_names": channels,
        "labels": {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": 4,
        "file_ending": ending,
    }
    held = {
        kind: sorted(path.name for path in (folder / kind).iterdir()) for kind in ("imagesTr", "labelsTr", "imagesTs")
    }
    assert held["imagesTr"] == [f"case{number}_0000{ending}" for number in (0, 1, 3, 4)]
    assert held["labelsTr"] == [f"case{number}{ending}" for number in (0, 1, 3, 4)]
    assert held["imagesTs"] == [f"case{number}_0000{ending}" for number in (2, 5)]
    _, cases = cases_of(made)
    if ending == ".nii.gz":
        image: Any = nibabel.load(folder / "imagesTr" / held["imagesTr"][0])  # type: ignore[attr-defined]
        np.testing.assert_array_equal(np.asarray(image.dataobj).T, cases[0]["image"][:, 0])
        assert image.header.get_zooms()[:3] == pytest.approx((0.6, 0.7, 2.0))
    else:
        pixels = np.asarray(Image.open(folder / "imagesTr" / f"case0_0000{ending}"))
        np.testing.assert_array_equal(np.atleast_3d(pixels).transpose(2, 0, 1), cases[0]["image"][0])
    integrity = pytest.importorskip("nnunetv2.experiment_planning.verify_dataset_integrity")
    monkeypatch.setattr(integrity.multiprocessing, "get_context", lambda _: Here())
    integrity.verify_dataset_integrity(str(folder))
    told = capfd.readouterr().out
    assert "verify_dataset_integrity Done" in told
    assert "Error" not in told
    assert "Warning" not in told


def test_nnunet_needs_masks_and_something_to_train_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_set(tmp_path / "set.h5")
    out = tmp_path / "out"
    assert run(["export", str(made), "--to", "nnunet", "--split", "test", "-o", str(out)]) == 65
    assert "no case is in the training part" in capsys.readouterr().err
    header, cases = cases_of(made)
    with create_set(tmp_path / "bare.h5", header) as writer:
        writer.write(replace(cases[0], arrays={"image": cases[0]["image"]}))
    assert run(["export", str(tmp_path / "bare.h5"), "--to", "nnunet", "-o", str(out)]) == 65
    assert "case case0: has no mask" in capsys.readouterr().err
    with create_set(tmp_path / "mixed.h5", header) as writer:
        for depth, case in enumerate(cases[:2], 1):
            arrays = {name: np.repeat(case[name], depth, axis=0) for name in case.arrays}
            writer.write(replace(case, arrays=arrays))
    assert run(["export", str(tmp_path / "mixed.h5"), "--to", "nnunet", "-o", str(out)]) == 65
    assert "case case1: has 2 slices" in capsys.readouterr().err
    assert not out.exists()
