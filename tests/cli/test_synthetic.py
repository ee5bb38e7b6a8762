"""Which cases a model made is a fact of each case: kept by every command, shown, asked for, and written into files."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import msgspec
import numpy as np
import pydicom
import pytest
from PIL import Image

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.cli.app import run

Medgen = Callable[..., subprocess.CompletedProcess[bytes]]
NO, GENERATED, ALTERED = "", "generated", "altered"


def told(path: Path) -> dict[str, str]:
    """Of each case of a set, what it says of itself."""
    with open_set(path) as reader:
        return {case.id: case.synthetic for case in reader}


def header_of(command: str = "preprocess") -> SetHeader:
    return SetHeader("image", derive(command, {}, sources="source-1"), Intensity())


def cases_of(kinds: tuple[str, ...], prefix: str = "case") -> list[Case]:
    """Two slices of noise a case, of these kinds."""
    random = np.random.default_rng(0)
    images = random.integers(-1000, 400, (len(kinds), 2, 1, 16, 16)).astype(np.int16)
    return [
        Case(f"{prefix}{number}", {"image": image}, spacing=(2.5, 1.0, 1.0), synthetic=kind)
        for number, (image, kind) in enumerate(zip(images, kinds, strict=True))
    ]


def write_set(path: Path, kinds: tuple[str, ...], prefix: str = "case") -> Path:
    with create_set(path, header_of()) as writer:
        for case in cases_of(kinds, prefix):
            writer.write(case)
    return path


@pytest.fixture(scope="module")
def samples(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three samples of a model of images like those of `tiny`."""
    path = tmp_path_factory.mktemp("samples") / "samples.h5"
    call = ["generate", str(tiny / "model.safetensors"), "--vae", str(tiny / "vae.safetensors"), "--steps", "1"]
    assert run([*call, "--vector", "has_nodule=1", "-n", "3", "-o", str(path)]) == 0
    return path


def bare(header: SetHeader) -> SetHeader:
    """Of the same images without names of labels, which samples do not have."""
    return msgspec.structs.replace(header, label_names=())


def test_samples_are_generated_and_in_no_split_unless_one_is_named(tiny: Path, samples: Path, tmp_path: Path) -> None:
    assert set(told(samples).values()) == {GENERATED}
    with open_set(samples, random_access=True) as stored:
        assert {row.split for row in stored.cases} == {"none"}
    call = ["generate", str(tiny / "model.safetensors"), "--vae", str(tiny / "vae.safetensors"), "--steps", "1"]
    assert run([*call, "--split-name", "train", "-o", str(tmp_path / "named.h5")]) == 0
    with open_set(tmp_path / "named.h5", random_access=True) as stored:
        assert [(row.split, row.synthetic) for row in stored.cases] == [("train", GENERATED)]


def test_merge_mixes_real_and_generated_only_when_told_to_and_no_case_forgets(
    medgen: Medgen, tiny: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real, mixed = tmp_path / "real.h5", tmp_path / "mixed.h5"
    with open_set(tiny / "images.h5") as reader, create_set(real, bare(reader.header)) as writer:
        for case in reader:
            writer.write(replace(case, arrays={name: case[name] for name in ("image", "vector")}))
    assert run(["merge", str(real), str(samples), "-o", str(mixed)]) == 65
    refused = capsys.readouterr().err
    assert "sample-000000 is generated" in refused
    assert "--allow-mixed" in refused
    assert not mixed.exists()
    stream = medgen("merge", samples).stdout  # the second input as a stream, whose cases are not known beforehand
    assert medgen("merge", real, "-", "-o", mixed, input=stream).returncode == 65
    assert run(["merge", str(real), str(samples), "--allow-mixed", "-o", str(mixed)]) == 0
    assert list(told(mixed).values()) == [NO] * 4 + [GENERATED] * 3
    capsys.readouterr()
    assert run(["info", str(mixed), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["synthetic"] == {"generated": 3, "no": 4}
    assert facts["splits"] == {"none": 3, "train": 2, "val": 2}
    assert run(["check", str(mixed)]) == 0


def test_merge_tells_samples_of_several_runs_apart(
    tiny: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They have the same ids for different images; those with the same pixels are the same, whatever their ids."""
    call = ["generate", str(tiny / "model.safetensors"), "--vae", str(tiny / "vae.safetensors"), "--steps", "1"]
    call += ["--vector", "has_nodule=1", "-n", "2", "--seed", "1", "-o", str(tmp_path / "later.h5")]
    assert run(call) == 0
    later, both = tmp_path / "later.h5", tmp_path / "both.h5"
    with open_set(later, random_access=True) as stored:
        behind, images = stored.provenance.id[:8], stored.read("image", range(2))
    assert run(["merge", str(samples), str(later), "-o", str(both)]) == 0
    assert (
        f"2 cases of {later} have the ids of other samples; their ids now end in -{behind}" in capsys.readouterr().err
    )
    first = [f"sample-{number:06d}" for number in range(3)]
    assert list(told(both)) == [*first, *(f"{name}-{behind}" for name in first[:2])]
    with open_set(both, random_access=True) as stored:
        np.testing.assert_array_equal(stored.read("image", [3, 4]), images)
        assert behind in {one[:8] for one in stored.provenance.steps[-1].inputs}
    for again in (later, both, samples):
        assert run(["merge", str(both), str(again), "-o", str(tmp_path / "no.h5")]) == 65
        assert "shows the pixels of case sample-000000" in capsys.readouterr().err
        words = ["merge", str(both), str(again), "--drop-duplicates", "-o", str(tmp_path / "same.h5"), "--force"]
        assert run(words) == 0
        assert list(told(tmp_path / "same.h5")) == list(told(both))


@pytest.mark.parametrize("kinds", [(GENERATED, ALTERED), (NO, ALTERED), (NO, GENERATED)])
def test_merge_asks_before_any_two_kinds_are_mixed(tmp_path: Path, kinds: tuple[str, str]) -> None:
    first, second = (write_set(tmp_path / f"{kind}.h5", (kind,), f"k{kind}") for kind in kinds)
    assert run(["merge", str(first), str(second), "-o", str(tmp_path / "out.h5")]) == 65
    assert run(["merge", str(first), str(second), "--allow-mixed", "-o", str(tmp_path / "out.h5")]) == 0
    assert tuple(told(tmp_path / "out.h5").values()) == kinds


def test_latents_maps_and_normal_versions_keep_the_fact(tiny: Path, tmp_path: Path) -> None:
    kinds = (NO, GENERATED, ALTERED, NO)
    with open_set(tiny / "images.h5") as reader, create_set(tmp_path / "x.h5", reader.header) as writer:
        for case, kind in zip(reader, kinds, strict=True):
            writer.write(replace(case, synthetic=kind))
    vae = ["--vae", str(tiny / "vae.safetensors")]
    assert run(["extract-latents", str(tmp_path / "x.h5"), *vae, "-o", str(tmp_path / "z.h5")]) == 0
    assert tuple(told(tmp_path / "z.h5").values()) == kinds
    assert run(["normalize", str(tmp_path / "x.h5"), "--method", "vae", *vae, "-o", str(tmp_path / "g.h5")]) == 0
    assert tuple(told(tmp_path / "g.h5").values()) == (ALTERED, GENERATED, ALTERED, ALTERED)
    assert run(["anomaly-map", str(tmp_path / "x.h5"), str(tmp_path / "g.h5"), "-o", str(tmp_path / "m.h5")]) == 0
    assert tuple(told(tmp_path / "m.h5").values()) == kinds  # the images of a set of maps are those given


def test_thin_slices_of_a_model_are_altered_and_those_of_a_spline_are_not(tiny: Path, tmp_path: Path) -> None:
    source = write_set(tmp_path / "thick.h5", (NO, GENERATED))
    with open_set(source) as reader, create_set(tmp_path / "even.h5", reader.header) as writer:
        for case in reader:
            writer.write(replace(case, arrays={"image": np.zeros((4, 1, 32, 32), np.int16)}))
    call = ["interpolate", str(tmp_path / "even.h5"), "--spacing", "1.25"]
    model = ["--model", str(tiny / "interpolators/random"), "--vae", str(tiny / "vae.safetensors"), "--steps", "1"]
    assert run([*call, *model, "--window", "-1000,400", "-o", str(tmp_path / "model.h5")]) == 0
    assert run([*call, "-o", str(tmp_path / "spline.h5")]) == 0
    assert list(told(tmp_path / "model.h5").values()) == [ALTERED, GENERATED]
    assert list(told(tmp_path / "spline.h5").values()) == [NO, GENERATED]


@pytest.mark.parametrize("to", ["dicom", "nifti", "png"])
def test_files_say_which_images_a_model_made_and_are_read_back_as_such(tmp_path: Path, to: str) -> None:
    path = write_set(tmp_path / "mixed.h5", (NO, GENERATED, ALTERED))
    assert run(["export", str(path), "--to", to, "-o", str(tmp_path / "out")]) == 0
    with (tmp_path / "out/conditions.csv").open() as file:
        rows = {row["case"]: row["synthetic"] for row in csv.DictReader(file)}
    assert rows == {"case0": NO, "case1": GENERATED, "case2": ALTERED}
    for case, kind in rows.items():
        (place,) = (one for one in (tmp_path / "out").iterdir() if one.name in (case, f"{case}.nii.gz"))
        assert run(["preprocess", str(place), "--workers", "1", "-o", str(tmp_path / f"{case}.h5")]) == 0
        assert set(told(tmp_path / f"{case}.h5").values()) == {kind}


def test_dicom_of_a_mixed_set_marks_only_what_a_model_made(tmp_path: Path) -> None:
    path = write_set(tmp_path / "mixed.h5", (NO, GENERATED, ALTERED))
    assert run(["export", str(path), "--to", "dicom", "-o", str(tmp_path / "out")]) == 0
    real, generated, altered = (pydicom.dcmread(tmp_path / f"out/case{number}/0000.dcm") for number in range(3))
    assert [str(file.PatientName).split("^")[0] for file in (real, generated, altered)] == [
        *("DERIVED", "SYNTHETIC", "SYNTHETIC"),
    ]
    assert "SyntheticData" not in real
    assert (generated.SyntheticData, altered.SyntheticData) == ("YES", "YES")
    assert "SYNTHETIC" not in real.ImageComments
    assert "a real one changed" in altered.ImageComments
    assert "a real one changed" not in generated.ImageComments


def test_synthetic_dicom_of_others_is_known_by_the_standard_attribute(
    write_slice: Callable[..., Path], tmp_path: Path
) -> None:
    for name, tag in (("yes", "YES"), ("no", "NO"), ("untold", None)):
        write_slice(tmp_path / f"{name}.dcm", np.zeros((4, 4), np.int16), SyntheticData=tag)
        call = ["preprocess", str(tmp_path / f"{name}.dcm"), "--workers", "1", "-o", str(tmp_path / f"{name}.h5")]
        assert run(call) == 0
    assert [*told(tmp_path / "yes.h5").values()] == [GENERATED]
    assert [*told(tmp_path / "no.h5").values(), *told(tmp_path / "untold.h5").values()] == [NO, NO]


def test_a_reference_must_be_real_unless_said_otherwise(
    tiny: Path, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["evaluate", str(tiny / "images.h5"), "--reference", str(samples), "--metrics", "fidelity"]
    assert run(call) == 65
    refused = capsys.readouterr().err
    assert "3 of its 3 cases are synthetic" in refused
    assert "--synthetic-reference" in refused
    assert run([*call, "--synthetic-reference"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["reference"]["synthetic"] == {"generated": 3}
    assert result["sets"][0]["synthetic"] == {"no": 4}


def test_training_says_how_many_cases_are_synthetic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_set(tmp_path / "mixed.h5", (NO, GENERATED, NO, ALTERED))
    call = ["train-vae", str(path), "--preset", "lidc-nodule-tiny", "--steps", "1", "--batch-size", "1"]
    small = ["--set", "loop.warmup=0", "--set", "crop=16"]
    assert run([*call, *small, "-o", str(tmp_path / "vae.safetensors")]) == 0
    assert "2 of the 4 cases of the training split are synthetic" in capsys.readouterr().err


def old_set(path: Path, notes: dict[str, str], ids: tuple[str, ...], command: str) -> str:
    """Write a set as version 0.1 did, and return its digest, computed by that version's rule."""
    header = header_of(command)
    cases = [replace(case, id=name) for case, name in zip(cases_of((NO,) * len(ids)), ids, strict=True)]
    with create_set(path, header) as writer:
        for case in cases:
            writer.write(case)
    facts = {**header.facts(), "schema": "medgen.set/1", "notes": notes}
    digest = old_digest(facts, cases)
    with h5py.File(path, "a") as file:
        del file["case/synthetic"], file["case/synthetic_ends"]
        for name, changed in (("header", facts), ("tail", {"digest": digest})):
            told = json.loads(file[name][...].tobytes())
            file.attrs[name] = msgspec.json.encode(told | changed, order="sorted").decode()
            del file[name]
    return digest


def old_digest(header: dict[str, object], cases: list[Case]) -> str:
    told = {key: value for key, value in header.items() if key != "label_names"}
    digest = hashlib.sha256(msgspec.json.encode(told, order="sorted"))
    for case in cases:
        digest.update(msgspec.json.encode(case.facts(), order="sorted"))
        for name in sorted(case.arrays):
            array = case[name]
            digest.update(f"{name}{array.dtype.str}{array.shape}".encode() + array.tobytes())
    digest.update(b"{}")
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("notes", "command", "expected"),
    [
        ({"synthetic": "yes"}, "generate", [GENERATED, GENERATED]),
        ({"synthetic": "normalized by both"}, "normalize", [ALTERED, ALTERED]),
        ({"interpolated": "to 1 mm by a generative model"}, "interpolate", [ALTERED, ALTERED]),
        ({"interpolated": "to 1 mm by a spline"}, "interpolate", [NO, NO]),
        ({}, "preprocess", [NO, NO]),
        ({}, "generate", [NO, GENERATED]),  # real ones were given first, and so their notes were kept
    ],
)
def test_sets_of_version_0_1_are_read_and_what_they_noted_is_known_of_their_cases(
    tmp_path: Path, notes: dict[str, str], command: str, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "old.h5"
    digest = old_set(path, notes, ("a", "sample-000000"), command)
    assert list(told(path).values()) == expected
    assert run(["check", str(path)]) == 0
    assert run(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == digest
    assert run(["merge", str(path), "--allow-mixed", "-o", str(tmp_path / "new.h5")]) == 0
    assert list(told(tmp_path / "new.h5").values()) == expected
    with open_set(tmp_path / "new.h5") as reader:
        assert reader.header.schema == "medgen.set/2"
        assert "synthetic" not in reader.header.notes
    assert run(["check", str(tmp_path / "new.h5")]) == 0


def test_what_a_table_says_of_exported_images_is_read_back(tmp_path: Path) -> None:
    texts = ("=1+1", "-2 mm nodule", "' quoted ")
    with create_set(tmp_path / "set.h5", header_of()) as writer:
        for case, text in zip(cases_of((GENERATED, ALTERED, NO)), texts, strict=True):
            images = {"image": case["image"][:1]}
            writer.write(replace(case, arrays=images, text=(text,), split="none" if case.synthetic else "val"))
    assert run(["export", str(tmp_path / "set.h5"), "--to", "png", "-o", str(tmp_path / "out")]) == 0
    table = tmp_path / "out/conditions.csv"
    assert "'=1+1" in table.read_text()
    for png in (tmp_path / "out").glob("*.png"):  # as another program would save them, without their own marks
        Image.open(png).copy().save(png)
    assert run(["preprocess", str(table), "--workers", "1", "-o", str(tmp_path / "again.h5")]) == 0
    with open_set(tmp_path / "again.h5") as reader:
        found = [(case.text, case.synthetic, case.split) for case in reader]
    assert found == [((texts[0],), GENERATED, "none"), ((texts[1],), ALTERED, "none"), ((texts[2],), NO, "val")]


def test_generated_images_read_from_files_belong_to_no_split(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set.h5", (NO, GENERATED))
    assert run(["export", str(path), "--to", "nifti", "-o", str(tmp_path / "out")]) == 0
    call = [
        "preprocess",
        str(tmp_path / "out"),
        "--split-fractions",
        "1,0,0",
        "--workers",
        "1",
        "-o",
        str(tmp_path / "again.h5"),
    ]
    assert run(call) == 0
    with open_set(tmp_path / "again.h5", random_access=True) as stored:
        assert [(row.synthetic, row.split) for row in stored.cases] == [(NO, "train"), (GENERATED, "none")]
