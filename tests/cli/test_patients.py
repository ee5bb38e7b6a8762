"""Nothing that leaves here says, or lets anybody find out, whom it shows: not artifacts, not pages, not reports."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medgen.artifacts.schema import Case
from medgen.artifacts.sets import open_set
from medgen.cli.app import run

WriteSlice = Callable[..., Path]
JANE, JOHN = "DOE-JANE-1950", "ROE-JOHN-1961"  # of one length: sizes of files tell that


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDGEN_ID_KEY", raising=False)


def volume(seed: int, depth: int = 3, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, (depth, size, size)).astype(np.int16)


def cases_of(path: Path) -> list[Case]:
    with open_set(path) as reader:
        return list(reader)


def preprocess(*sources: Path, output: Path, more: tuple[str, ...] = (), status: int = 0) -> list[Case]:
    call = ["preprocess", *map(str, sources), "--workers", "1", "-o", str(output), "--force", *more]
    assert run(call) == status
    return cases_of(output)


def dicom(write_slice: WriteSlice, folder: Path, seed: int = 0, patient: str = JANE, series: str = "1.2.7") -> Path:
    for index, pixels in enumerate(volume(seed)):
        tags = {"PatientID": patient, "PatientName": patient, "StudyDescription": patient}
        tags |= {"SeriesInstanceUID": series, "SOPInstanceUID": f"{series}.{index}"}
        write_slice(folder / f"{index}.dcm", pixels, z=2.5 * index, **tags)
    return folder


def nifti(path: Path, seed: int = 0) -> Path:
    """The same voxels as `dicom`, in the same places."""
    affine = np.diag([-0.5, -0.5, 2.5, 1.0])
    affine[:3, 3] = 10, 20, 0
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume(seed).transpose(2, 1, 0), affine), path)  # type: ignore[attr-defined,no-untyped-call]
    return path


def png(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((volume(seed, 1)[0] & 255).astype(np.uint8)).save(path)
    return path


def sources(kind: str, write_slice: WriteSlice, root: Path, name: str) -> Path:
    """Two images, with a patient's name wherever there is a place for it."""
    folder = root / name
    if kind == "dicom":
        for number in range(2):
            dicom(write_slice, folder / f"{name}-{number}", number, f"{name}-{number}", f"1.2.7.{number}")
    elif kind == "zip":
        folder.mkdir()
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for number in range(2):
                member = png(root / "raw" / f"{number}.png", number)
                archive.write(member, f"{name}/{name}-{number}.png")
    else:
        for number in range(2):
            file = folder / f"{name}-{number}.{kind}"
            png(file, number) if kind == "png" else nifti(file, number)
    lines = [f"{found},{name}-{number},round,0,0.5\n" for number, found in rows(kind, name)]
    (folder / f"{name}.csv").write_text("path,patient,text,slice,x\n" + "".join(lines))
    return folder


def rows(kind: str, name: str) -> Iterator[tuple[int, str]]:
    for number in range(2):
        yield number, f"{name}-{number}" if kind == "dicom" else f"{name}-{number}.{'png' if kind == 'zip' else kind}"


@pytest.mark.parametrize("kind", ["dicom", "nii", "png", "zip"])
def test_sets_of_the_same_images_are_the_same_whoever_they_are_named_after(
    write_slice: WriteSlice, tmp_path: Path, kind: str
) -> None:
    """Then no list of names helps: names have no part in it. (A patient's split tells one bit or two; here none.)"""
    made = []
    for name in (JANE, JOHN):
        folder = sources(kind, write_slice, tmp_path, name)
        more = ("--labels", str(folder / f"{name}.csv"), "--vector-fields", "x", "--split-name", "test")
        more += ("--healthy-slices", "1")
        preprocess(folder, output=tmp_path / f"{name}.h5", more=more)
        made.append((tmp_path / f"{name}.h5").read_bytes())
    assert made[0] == made[1]
    assert JANE.encode() not in made[0]


def test_ids_come_from_the_pixels_in_every_container(write_slice: WriteSlice, tmp_path: Path) -> None:
    folder = dicom(write_slice, tmp_path / "one")
    (tmp_path / "other").mkdir()
    with zipfile.ZipFile(tmp_path / "other" / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, file in enumerate(sorted(folder.iterdir(), reverse=True)):
            archive.write(file, f"{number}")
    (case,) = preprocess(folder, output=tmp_path / "a.h5")
    (zipped,) = preprocess(tmp_path / "other", output=tmp_path / "b.h5")
    (again,) = preprocess(nifti(tmp_path / "v.nii.gz"), output=tmp_path / "c.h5", more=("--modality", "CT"))
    (cropped,) = preprocess(folder, output=tmp_path / "d.h5", more=("--size", "8", "--window", "bone"))
    (other,) = preprocess(nifti(tmp_path / "w.nii", 1), output=tmp_path / "e.h5", more=("--modality", "CT"))
    assert case.id == zipped.id == again.id == cropped.id != other.id
    assert len(case.id) == 16
    for to, place in (("dicom", f"to-dicom/{case.id}"), ("nifti", f"to-nifti/{case.id}.nii.gz")):
        assert run(["export", str(tmp_path / "a.h5"), "--to", to, "-o", str(tmp_path / f"to-{to}")]) == 0
        (back,) = preprocess(tmp_path / place, output=tmp_path / "f.h5", more=("--modality", "CT"))
        assert back.id == case.id


def test_slices_that_are_not_kept_name_a_case_all_the_same(write_slice: WriteSlice, tmp_path: Path) -> None:
    """The middle slice is read for its pixels alone."""
    (whole,) = preprocess(dicom(write_slice, tmp_path / "one"), output=tmp_path / "a.h5")
    vector = "has_nodule,x,y,size,malignancy,texture"
    for kept in (0, 1, 2):
        (tmp_path / "labels.csv").write_text(f"path,slice,{vector}\none,{kept},1,0.5,0.5,0.5,0.5,0.5\n")
        more = ("--labels", str(tmp_path / "labels.csv"), "--healthy-slices", "0")
        (part,) = preprocess(tmp_path / "one", output=tmp_path / "b.h5", more=more)
        assert len(part) == 1
        np.testing.assert_array_equal(part["image"][0], whole["image"][kept])
        assert part.id == whole.id


def test_with_a_secret_ids_begin_with_the_patient_and_cannot_be_guessed_without(
    write_slice: WriteSlice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):  # two series of Jane, one of John
        dicom(write_slice, tmp_path / "in" / f"{number}", number, JOHN if number == 2 else JANE, f"1.2.7.{number}")
    open_ids = [case.id for case in preprocess(tmp_path / "in", output=tmp_path / "a.h5")]
    found = {}
    for key in ("first secret", "second secret"):
        monkeypatch.setenv("MEDGEN_ID_KEY", key)
        found[key] = [case.id for case in preprocess(tmp_path / "in", output=tmp_path / "b.h5")]
        persons = [name.split("-")[0] for name in found[key]]
        assert persons[0] == persons[1] != persons[2]
        assert [name.split("-")[1] for name in found[key]] == open_ids
        known = [b"medgen", b"", key.encode()[:4]]
        guesses = {
            blake2b(JANE.encode(), key=guess, digest_size=size, person=person).hexdigest()[:12]
            for guess in (*known, *(blake2b(guess, digest_size=32).digest() for guess in known))
            for person in (b"medgen-patient", b"medgen-case")
            for size in (6, 8)
        }
        assert not guesses & set(persons)
    assert not set(found["first secret"]) & set(found["second secret"])
    monkeypatch.setenv("MEDGEN_ID_KEY", "")  # as an empty secret of a cluster: no key at all
    assert [case.id for case in preprocess(tmp_path / "in", output=tmp_path / "b.h5")] == open_ids


def test_a_secret_on_the_command_line_is_no_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["preprocess", str(tmp_path), "--id-key", "secret"]) == 2
    assert "--id-key" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["", "a secret"])
def test_shards_agree_about_ids_splits_and_numbers_of_equal_images(
    write_slice: WriteSlice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Eight patients of two series each; some images occur several times, of one patient and of several."""
    monkeypatch.setenv("MEDGEN_ID_KEY", key)
    equal = {3: 0, 5: 0, 8: 0, 9: 0, 15: 1}
    for number in range(16):
        seed, patient = equal.get(number, number), f"{JANE}-{number // 2}"
        dicom(write_slice, tmp_path / "in" / f"{number:02d}", seed, patient, f"1.2.7.{number}")
    whole = preprocess(tmp_path / "in", output=tmp_path / "whole.h5", more=("--split-fractions", "0.4,0.3,0.3"))
    assert len({case.id for case in whole}) == 16
    splits = [case.split for case in whole]
    assert splits[0::2] == splits[1::2]
    assert len(set(splits)) > 1
    if not key:
        first = whole[0].id
        assert [whole[number].id for number in (3, 5, 8, 9)] == [f"{first}.{number}" for number in (2, 3, 4, 5)]
    parts = [str(tmp_path / f"{part}.h5") for part in range(3)]
    for part, path in enumerate(parts):
        preprocess(
            tmp_path / "in", output=Path(path), more=("--split-fractions", "0.4,0.3,0.3", "--shard", f"{part}/3")
        )
    assert run(["merge", *reversed(parts), "-o", str(tmp_path / "joined.h5")]) == 0
    assert (tmp_path / "joined.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_sets_that_share_images_are_merged_only_without_the_copies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seeds in (("a", (0, 1)), ("b", (2, 1, 3))):
        for number, seed in enumerate(seeds):
            png(tmp_path / name / f"{name}{number}.png", seed)
    first = preprocess(tmp_path / "a", output=tmp_path / "a.h5", more=("--split-name", "train"))
    second = preprocess(tmp_path / "b", output=tmp_path / "b.h5", more=("--split-name", "test"))
    call = ["merge", str(tmp_path / "a.h5"), str(tmp_path / "b.h5"), "-o", str(tmp_path / "c.h5")]
    capsys.readouterr()
    assert run(call) == 65
    told = capsys.readouterr().err
    assert f"case {first[1].id} (test) shows the pixels of case {first[1].id} (train)" in told
    assert "--drop-duplicates" in told
    assert run([*call, "--drop-duplicates"]) == 0
    assert "1 cases were dropped" in capsys.readouterr().err
    merged = cases_of(tmp_path / "c.h5")
    assert [case.id for case in merged] == [first[0].id, first[1].id, second[0].id, second[2].id]
    assert [case.split for case in merged] == ["train", "train", "test", "test"]


@pytest.mark.parametrize("key", ["", "a secret"])
def test_rows_of_labels_may_name_the_cases_of_a_set(
    write_slice: WriteSlice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """As one does who looked at a set, and now says what its cases are; two of them show the same."""
    monkeypatch.setenv("MEDGEN_ID_KEY", key)
    for number, seed in enumerate((0, 1, 2, 1)):
        patient = f"{JANE}-{number if key else 0}"
        dicom(write_slice, tmp_path / "in" / f"s{number}", seed, patient, f"1.2.7.{number}")
    ids = [case.id for case in preprocess(tmp_path / "in", output=tmp_path / "a.h5")]
    table = tmp_path / "labels.csv"
    named = [0, 2] if key else [0, 1, 2, 3]
    lines = [f"{ids[number]},{'well' if number == 2 else 'ill'}" for number in named]
    lines += [f"s{number},ill" for number in range(4) if number not in named]  # by their folders
    table.write_text("case,label\n" + "\n".join(lines) + "\n")
    more = ("--labels", str(table))
    labelled = preprocess(tmp_path / "in", output=tmp_path / "b.h5", more=more)
    assert [case["label"][0] for case in labelled] == [0, 0, 1, 0]
    assert [case.id for case in labelled] == ids
    table.write_text(f"case,label\n{ids[1]},ill\n{'0' * 16},well\n")
    report = tmp_path / "report.json"
    more = (*more, "--keep-going", "--report", str(report))
    (tmp_path / "b.h5").unlink()
    assert run(["preprocess", str(tmp_path / "in"), "--workers", "1", "-o", str(tmp_path / "b.h5"), *more]) == (
        65 if key else 1
    )
    left_out = json.loads(report.read_text()).get("left_out", [])
    if not key:  # with one, which of two patients with equal images is meant cannot be told: nothing is labelled
        assert {"row": 3} in left_out
        assert [case.id for case in cases_of(tmp_path / "b.h5")] == [ids[1]]


@pytest.mark.parametrize(
    ("told", "kept"), [("CT", "CT"), ("ct ", "CT"), ("DOE JANE", ""), ("MRI", ""), ("PX", "PX"), (None, "")]
)
def test_a_modality_is_a_term_of_the_standard_or_nothing(
    write_slice: WriteSlice, tmp_path: Path, told: str | None, kept: str
) -> None:
    write_slice(tmp_path / "a.dcm", volume(0)[0], Modality=told)
    (case,) = preprocess(tmp_path / "a.dcm", output=tmp_path / "a.h5")
    assert (case.modality or ("",))[0] == kept


def test_no_name_of_a_folder_or_file_reaches_a_page_or_a_report(
    write_slice: WriteSlice, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names in every place of a command line, with faults and warnings of every kind; only stderr may tell them."""
    here = tmp_path / JANE
    for part in ("ours", "theirs"):
        for number in range(6):
            png(here / f"{JANE}-{part}" / f"{JANE}-{number}.png", number + (10 if part == "theirs" else 0))
        (here / f"{JANE}-{part}" / f"{JANE}-bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + JANE.encode())
        (here / f"{JANE}-{part}" / f"{JANE}-cut.zip").write_bytes(b"PK\x03\x04" + JANE.encode())
        png(here / f"{JANE}-{part}" / f"{JANE}-copy.png", 0)
    (here / f"{JANE}-drawn").mkdir()
    for number in (*range(5), 9):  # one image has no mask, one mask no image
        drawn = np.zeros(np.asarray(Image.open(here / f"{JANE}-ours" / f"{JANE}-0.png")).shape[:2], np.uint8)
        drawn[1:3, 1:3] = 255
        Image.fromarray(drawn).save(here / f"{JANE}-drawn" / f"{JANE}-{number}.png")
    dicom(write_slice, here / f"{JANE}-ct")
    write_slice(here / f"{JANE}-ct" / f"{JANE}.dcm", volume(0, size=8)[0], z=99, Modality=JANE, Rows=9)
    lines = [f"{JANE}-{number}.png,{JANE},ill,x\n" for number in (0, 9)]
    (here / f"{JANE}.csv").write_text(f"path,patient,label,{JANE}\n" + "".join(lines))
    (here / f"{JANE}.xml").write_text("<LidcReadMessage/>")
    outputs = []
    for number, (name, more) in enumerate(
        (
            (f"{JANE}-ours", ()),
            (f"{JANE}-ours", ("--labels", str(here / f"{JANE}.csv"))),
            (f"{JANE}-ours", ("--masks", str(here / f"{JANE}-drawn"))),
            (f"{JANE}-ct", ("--lidc-xml", str(here / f"{JANE}.xml"))),
            (f"{JANE}-none", ()),
        )
    ):
        out, report = here / f"{JANE}-{number}.h5", here / f"{JANE}-{number}.json"
        call = ["preprocess", str(here / name), *more, "--keep-going", "--workers", "1", "-o", str(out)]
        assert run([*call, "--report", str(report)]) in (1, 66), call
        outputs += [out, report]
    assert run(["evaluate", str(here / "none.h5"), "--report", str(here / "e0.json")]) == 66
    folders = [str(here / f"{JANE}-{part}") for part in ("ours", "theirs")]
    learned = str(png(here / f"{JANE}-learned" / f"{JANE}-0.png", 99).parent)  # called as others, and no copy of them
    for number in range(1, 6):
        png(here / f"{JANE}-learned" / f"{JANE}-{number}.png", 90 + number)
    png(here / f"{JANE}-learned" / f"{JANE}-copy.png", 98)
    for reports in ((".json", ".html"), (".json", ".facts.json")):
        files = [here / f"{JANE}-evaluation{suffix}" for suffix in reports]
        call = ["evaluate", *folders, "--reference", folders[1], "--training", learned, "--keep-going", "--force"]
        call += ["--metrics", "fidelity,memorization,reconstruction", "--set", "fidelity.subset_size=2"]
        assert run([*call, "--pairs", str(here / "pairs.png"), "-o", str(files[0]), "--report", str(files[1])]) == 1
        outputs += files
    first = outputs[0]
    for to in ("dicom", "png"):
        call = ["export", str(first), "--to", to, "-o", str(here / to), "--report", str(here / f"{to}.json")]
        assert run(call) == 0
    capsys.readouterr()
    assert run(["info", str(first)]) == 0
    told = capsys.readouterr().out
    outputs += [here / "e0.json", here / "dicom.json", *(here / "dicom").rglob("*.*"), *(here / "png").rglob("*.*")]
    for path in (path for path in outputs if path.exists() and path.is_file()):
        for secret in (JANE, "DOE", str(tmp_path)):
            assert secret.encode() not in path.read_bytes(), path.name
            assert secret not in told
    failures = json.loads((here / f"{JANE}-0.json").read_text())
    assert failures["error"] == "SomeItemsFailed"
    assert failures["left_out"] == [{"source": 1}, {"source": 1, "file": 7}]
