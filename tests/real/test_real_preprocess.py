"""Real scanner files: an independent reader sees the same voxels in the same place; odd files have their answer."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from medgen.artifacts.schema import Case, SetHeader
from medgen.artifacts.sets import open_set
from medgen.imaging.reading.archive import enumerate_sources
from medgen.imaging.reading.formats import scan
from medgen.imaging.reading.series import build_stacks

Run = Callable[..., subprocess.CompletedProcess[bytes]]

pytestmark = pytest.mark.skipif(
    not os.environ.get("MEDGEN_REAL_DATA"), reason="MEDGEN_REAL_DATA does not name a folder of real images"
)
# Cut short, damaged, of a kind no decoder reads, or without an image: named, and nothing else of the folder is.
REFUSED = {
    *("MR_truncated.dcm", "badVR.dcm", "meta_missing_tsyntax.dcm", "no_meta.dcm"),
    *("emri_small_jpeg_2k_lossless_too_short.dcm", "rtplan.dcm", "rtstruct.dcm", "test-SR.dcm", "reportsi.dcm"),
    "DICOMDIR-empty.dcm",
}


@pytest.fixture
def real() -> Path:
    return Path(os.environ["MEDGEN_REAL_DATA"])


def contents(path: Path) -> tuple[SetHeader, list[Case]]:
    with open_set(path) as reader:
        return reader.header, list(reader)


def unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder


def read_by_simpleitk(folder: Path) -> sitk.Image:
    inner = next(path for path in folder.rglob("*") if path.suffix == ".dcm").parent
    return sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(inner)))


@pytest.mark.parametrize("name", ["ct/lidc_idri_0001.zip", "mr/t1_7t.zip"])
def test_simpleitk_sees_the_same_volume(real: Path, medgen: Run, tmp_path: Path, name: str) -> None:
    window = ["--window", "0,4095"] if name.startswith("mr") else []
    result = medgen("preprocess", real / name, "-o", tmp_path / "a.h5", *window)
    assert result.returncode == 0, result.stderr
    _, (case,) = contents(tmp_path / "a.h5")
    image = read_by_simpleitk(unpacked(real / name, tmp_path / "files"))
    theirs = sitk.GetArrayFromImage(image).astype(int)
    ours = case["image"][:, 0].astype(int)
    padding = -2000 - 1024 if name.startswith("ct") else None  # the scanner's "nothing here", -1000 HU with us
    if padding is not None:
        assert (ours[theirs == padding] == -1000).all()
    assert np.array_equal(ours[theirs != padding], theirs[theirs != padding])
    # SimpleITK: x, y, z; the columns of its matrix are the axes
    assert case.spacing == pytest.approx(image.GetSpacing()[::-1], abs=1e-4)
    assert case.origin == pytest.approx(image.GetOrigin(), abs=1e-4)
    axes = np.array(image.GetDirection()).reshape(3, 3)
    assert np.allclose(np.array(case.direction).reshape(3, 3), axes.T[::-1], atol=1e-4)


def nodule_boxes(xml: Path) -> dict[str, list[tuple[int, int, int, int, int, int]]]:
    """By slice: (left, top, right, bottom, malignancy, texture) of each reader's large nodule, inside the contour."""
    found = defaultdict(list)
    text = re.sub(r'\sxmlns="[^"]+"', "", xml.read_text(), count=1)
    for nodule in ElementTree.fromstring(text).iter("unblindedReadNodule"):
        if nodule.find("characteristics/malignancy") is None:
            continue
        ratings = (int(nodule.findtext("characteristics/malignancy")), int(nodule.findtext("characteristics/texture")))
        for roi in nodule.iter("roi"):
            xs = [int(point.text) for point in roi.iter("xCoord")]
            ys = [int(point.text) for point in roi.iter("yCoord")]
            box = (min(xs) + 1, min(ys) + 1, max(xs), max(ys))  # first inside, first outside
            found[roi.findtext("imageSOP_UID").strip()].append((*box, *ratings))
    return found


@pytest.mark.parametrize("size", ["512", "256"])
def test_lidc_vectors_agree_with_the_contours(real: Path, medgen: Run, tmp_path: Path, size: str) -> None:
    archive, xml = real / "ct" / "lidc_idri_0001.zip", next((real / "lidc").glob("*.xml"))
    result = medgen("preprocess", archive, "--lidc-xml", xml, "--size", size, "-o", tmp_path / "a.h5")
    assert result.returncode == 0, result.stderr
    _, (case,) = contents(tmp_path / "a.h5")
    boxes = nodule_boxes(xml)
    order = []
    for path in unpacked(archive, tmp_path / "files").rglob("*.dcm"):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        order.append((float(dataset.ImagePositionPatient[2]), str(dataset.SOPInstanceUID)))
    labelled = 0
    for vector, (_, sop) in zip(case["vector"], sorted(order), strict=True):
        if sop not in boxes:
            assert not vector.any()
            continue
        labelled += 1
        left, top, right, bottom = np.mean([box[:4] for box in boxes[sop]], axis=0)
        expected = (1, (left + right) / 1024, (top + bottom) / 1024, max(right - left, bottom - top) / 512)
        assert vector[:4] == pytest.approx(expected, abs=1e-5)
        # the four readers all saw this one nodule: 5, 5, 5 and 4 for both ratings
        assert vector[4:] == pytest.approx(((4.75 - 1) / 4, (4.75 - 1) / 4), abs=1e-6)
    assert labelled == len(boxes) == 9


def test_the_lidc_nodule_is_where_the_vector_says(real: Path, medgen: Run, tmp_path: Path) -> None:
    archive = real / "ct" / "lidc_idri_0001.zip"
    result = medgen(
        *("preprocess", archive, "--lidc-xml", real / "lidc", "--healthy-slices", "0", "--size", "256"),
        *("-o", tmp_path / "a.h5"),
    )
    assert result.returncode == 0, result.stderr
    _, (case,) = contents(tmp_path / "a.h5")
    assert len(case) == 9
    means = []
    for image, vector in zip(case["image"][:, 0], case["vector"], strict=True):
        x, y = int(vector[1] * 256), int(vector[2] * 256)
        means.append(image[y - 2 : y + 3, x - 2 : x + 3].mean())
    assert min(means) > -600  # above the lung also on its first and last slice
    assert -100 < np.median(means) < 200  # solid


def test_every_odd_file_is_read_or_refused_with_its_reason(real: Path, medgen: Run, tmp_path: Path) -> None:
    files = sorted((real / "odd_dicoms").glob("*.dcm"))
    assert files
    mixed = ("--window", "0.5%,99.5%", "--channels", "3")  # all scales, grey and colour
    result = medgen("preprocess", *files, *mixed, "--keep-going", "--size", "64", "-o", tmp_path / "a.h5")
    assert result.returncode == 1
    told = re.findall(r"left out: (\S+): (.+)", result.stderr.decode())
    assert {Path(name).name for name, _ in told} == REFUSED
    assert all(len(reason) > 10 for _, reason in told)
    assert len(contents(tmp_path / "a.h5")[1]) == len(files) - len(REFUSED)


def test_a_folder_of_everything_names_what_has_another_scale(real: Path, medgen: Run, tmp_path: Path) -> None:
    result = medgen("preprocess", real / "odd_dicoms", "--keep-going", "--size", "64", "-o", tmp_path / "a.h5")
    assert result.returncode == 1
    told = result.stderr.decode()
    assert len(re.findall(r"files that show no patient were skipped: ", told)) == 1
    for kind in ("Basic Text SR (1)", "RT Plan (1)", "RT Structure Set (1)", "RT Dose (1)", "Segmentation (2)"):
        assert kind in told
    odd = re.findall(r"left out: (\S+) \((.+)\): not on the same scale as the rest", told)
    header, cases = contents(tmp_path / "a.h5")
    assert len(odd) > 10
    assert len({(scale.split(", ")[-1]) for _, scale in odd}) >= 2
    assert header.intensity
    assert len({case["image"].shape[1] for case in cases}) == 1


def test_each_refused_file_stops_a_run_without_keep_going(real: Path, medgen: Run, tmp_path: Path) -> None:
    for name in ("MR_truncated.dcm", "rtplan.dcm"):
        result = medgen("preprocess", real / "odd_dicoms" / name, "-o", tmp_path / "a.h5")
        assert result.returncode == 65
        assert name in result.stderr.decode().splitlines()[-1]
        assert not (tmp_path / "a.h5").exists()


def test_every_decoded_file_equals_an_independent_decoder(real: Path, tmp_path: Path) -> None:
    """Grey files that SimpleITK reads too, voxel by voxel after its own slope and intercept."""
    from medgen.imaging.reading.formats import read

    compared = 0
    for path in sorted((real / "odd_dicoms").glob("*.dcm")):
        if path.name in REFUSED:
            continue
        entry = enumerate_sources([str(path)]).entries[0]
        facts = scan(entry, "")
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        # ITK leaves MONOCHROME1 and padding as they are, and knows no bits, float pixels or per-frame slopes
        odd = dataset.get("PhotometricInterpretation") != "MONOCHROME2" or "PixelPaddingValue" in dataset
        if facts[0].colour or odd or dataset.BitsAllocated not in (8, 16) or path.name == "J2K_pixelrep_mismatch.dcm":
            continue
        try:
            theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float64)
        except RuntimeError:
            continue
        ours = read(entry, "dicom", [item.frame for item in facts], hu=facts[0].kind == "hu")[..., 0]
        assert np.abs(theirs.reshape(ours.shape) - ours).max() <= 1e-3, path.name
        compared += 1
    assert compared >= 12


def test_mixed_series_are_separated(real: Path, medgen: Run, tmp_path: Path) -> None:
    folder = real / "odd_dicoms" / "mixed_series"
    slices = [facts for entry in enumerate_sources([str(folder)]).entries for facts in scan(entry, "")]
    assert len(slices) == 31
    stacks, _ = build_stacks(slices)
    assert len({facts.series for facts in slices}) == 13
    assert all(len({facts.series for facts in stack.slices}) == 1 for stack in stacks)
    assert len({stack.key for stack in stacks}) == len(stacks)
    for stack in stacks:  # and one orientation each: scouts and rotated views are no volume
        assert len({tuple(np.round((*(f.across or ()), *(f.down or ())), 2)) for f in stack.slices}) == 1
    result = medgen("preprocess", folder, "--series", "CT", "--min-slices", "4", "-o", tmp_path / "a.h5")
    assert result.returncode == 0, result.stderr
    assert sorted(len(case) for case in contents(tmp_path / "a.h5")[1]) == [4, 5]
    assert b"uneven gaps: 202.5 mm" in result.stderr


def test_x_rays_of_every_mode_and_masks(real: Path, medgen: Run, tmp_path: Path) -> None:
    result = medgen("preprocess", real / "chest_xray", "--size", "128", "-o", tmp_path / "x.h5")
    assert result.returncode == 0, result.stderr
    _, cases = contents(tmp_path / "x.h5")
    assert len(cases) == 75
    assert all(case["image"].shape == (1, 3, 128, 128) for case in cases)
    assert all(case["image"].max() > 150 for case in cases)
    for name, count in (("polyp_cvc612", 20), ("retina_chase_db1", 14), ("lung_cxr", 4)):
        folder = real / "mask_pairs" / name
        out = tmp_path / f"{name}.h5"
        result = medgen("preprocess", folder, "--masks", folder / "masks", "--size", "96", "-o", out)
        assert result.returncode == 0, result.stderr
        _, cases = contents(out)
        assert len(cases) == count
        shares = [float(case["mask"].mean()) for case in cases]
        assert all(0.005 < share < 0.6 for share in shares)
        assert all(set(np.unique(case["mask"])) == {0, 1} for case in cases)


def test_x_rays_with_their_notes(real: Path, medgen: Run, tmp_path: Path) -> None:
    folder = real / "chest_xray"
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    table = tmp_path / "pairs.csv"
    with table.open("w", encoding="utf-16", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(("modal", "path", "patient", "findings", "view"))
        for row in rows:
            image = folder / "images" / row["filename"]
            writer.writerow(("chest X-ray", image, row["patientid"], row["clinical_notes"], row["view"]))
    result = medgen(
        "preprocess", table, "--template", "report", "--size", "64", "--channels", "1", "-o", tmp_path / "a.h5"
    )
    assert result.returncode == 0, result.stderr
    assert b"separated by tabs and in utf-16" in result.stderr
    header, cases = contents(tmp_path / "a.h5")
    notes = [" ".join(row["clinical_notes"].split()) for row in rows]
    assert [case.text[0].startswith("chest X-ray. Findings: ") for case in cases] == [bool(note) for note in notes]
    assert all(note.rstrip(".") in case.text[0] for note, case in zip(notes, cases, strict=True))
    splits = {(row["patientid"], case.split) for row, case in zip(rows, cases, strict=True)}
    assert len(splits) == len({row["patientid"] for row in rows})
    assert header.provenance.steps[-1].config["template"]["name"] == "report"


@pytest.mark.parametrize("name", ["polyp_cvc612", "retina_chase_db1", "lung_cxr"])
def test_masks_are_those_of_the_files_and_come_back_from_nnunet(
    real: Path, medgen: Run, tmp_path: Path, name: str
) -> None:
    folder = real / "mask_pairs" / name
    made, again, out = tmp_path / "made.h5", tmp_path / "again.h5", tmp_path / "Dataset501_Pairs"
    call = (
        "preprocess",
        folder / "images",
        "--masks",
        folder / "masks",
        "--mask-classes",
        "thing",
        "--split-name",
        "train",
    )
    result = medgen(*call, "-o", made)
    assert result.returncode == 0, result.stderr
    assert (b"JPEG, which blurs values, were cut at 127.5" in result.stderr) == (name == "polyp_cvc612")
    header, cases = contents(made)
    assert header.mask_names == ("background", "thing")
    files = [np.asarray(Image.open(file).convert("L")) > 127 for file in sorted((folder / "masks").iterdir())]
    assert sorted(int(one.sum()) for one in files) == sorted(int(case["mask"].sum()) for case in cases)
    colour = 1 if name == "lung_cxr" else 3
    assert {case["image"].shape[1] for case in cases} == {colour}
    assert medgen("export", made, "--to", "nnunet", "-o", out).returncode == 0
    result = medgen("preprocess", out / "imagesTr", "--masks", out / "labelsTr", "-o", again)
    assert result.returncode == 0, result.stderr
    before = {case["image"].tobytes(): case["mask"] for case in cases}
    _, after = contents(again)
    assert len(after) == len(cases)
    for case in after:
        np.testing.assert_array_equal(case["mask"], before[case["image"].tobytes()])


def test_exact_copies_are_told_and_share_a_split(real: Path, medgen: Run, tmp_path: Path) -> None:
    folder = real / "brain_mri"
    result = medgen(
        *("preprocess", folder, "--labels", folder / "labels.csv", "--size", "64", "--channels", "1"),
        *("-o", tmp_path / "a.h5"),
    )
    assert result.returncode == 0, result.stderr
    assert b"15 cases show exactly the pixels of another case of their split" in result.stderr
    header, cases = contents(tmp_path / "a.h5")
    splits = defaultdict(set)
    for case in cases:
        splits[case["image"].tobytes()].add(case.split)
    assert len(splits) < len(cases) == 100
    assert all(len(names) == 1 for names in splits.values())
    assert header.label_names == ("abnormal", "normal")
