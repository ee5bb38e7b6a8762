"""`medgen interpolate` as users call it: files in, files out."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.cli.app import run

Medgen = Callable[..., subprocess.CompletedProcess[bytes]]
SIDE = 32
# Rows run along +x; columns are tilted: an oblique series, whose normal is (0, -0.6, 0.8).
ACROSS, DOWN, NORMAL = (1.0, 0.0, 0.0), (0.0, 0.8, 0.6), (0.0, -0.6, 0.8)


def arguments(tiny: Path, source: Path | str, output: Path | str, *more: str, model: str = "random") -> list[str]:
    models = ["--model", str(tiny / "interpolators" / model), "--vae", str(tiny / "vae.safetensors")]
    return ["interpolate", str(source), *models, "-o", str(output), "--steps", "2", *more]


def pixels(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    levels = rng.integers(-900, 900, (count, 4, 4))
    return np.kron(levels, np.ones((SIDE // 4, SIDE // 4))).astype(np.int16)


@pytest.fixture
def oblique(tmp_path: Path, write_slice: Callable[..., Path]) -> Path:
    """A ZIP of six oblique slices, 5 mm apart and 4 mm thick."""
    start = np.array([-12.0, 30.0, -45.0])
    files = []
    for index, image in enumerate(pixels(6)):
        position = (start + 5.0 * index * np.array(NORMAL)).tolist()
        tags: dict[str, Any] = {
            "ImagePositionPatient": position, "ImageOrientationPatient": [*ACROSS, *DOWN], "SliceThickness": 4.0,
            "PixelSpacing": [0.7, 0.7], "FrameOfReferenceUID": "1.2.3.9",
        }  # fmt: skip
        files.append(write_slice(tmp_path / "in" / f"{index}.dcm", image, **tags))
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as bundle:
        for file in files:
            bundle.write(file, file.name)
    return tmp_path / "ct.zip"


def thick_set(path: Path, cases: list[Case]) -> Path:
    with create_set(path, SetHeader("image", derive("make", {"cases": len(cases)}), Intensity())) as writer:
        for case in cases:
            writer.write(case)
    return path


def thick_case(name: str, count: int = 5, spacing: float = 4.0, seed: int = 0, **changes: Any) -> Case:
    return Case(name, {"image": pixels(count, seed)[:, None]}, "test", (spacing, 1.0, 1.0), **changes)


def test_dicom_goes_in_and_comes_out_where_it_was(medgen: Medgen, tiny: Path, oblique: Path, tmp_path: Path) -> None:
    import pydicom
    import SimpleITK

    done = medgen(*arguments(tiny, oblique, tmp_path / "thin.h5", "--spacing", "1.25"))
    assert done.returncode == 0, done.stderr
    assert b"SECRET" not in (tmp_path / "thin.h5").read_bytes()
    assert medgen("export", str(tmp_path / "thin.h5"), "--to", "dicom", "-o", str(tmp_path / "out")).returncode == 0
    files = sorted(path for path in (tmp_path / "out").rglob("*.dcm"))
    # Measured: from 2 mm before the first centre to 2 mm after the last, 29 mm: 23 slices about the same middle.
    assert len(files) == 23
    slices = [pydicom.dcmread(path) for path in files]
    assert {(float(one.SliceThickness), float(one.SpacingBetweenSlices)) for one in slices} == {(1.25, 1.25)}
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in files])
    image = reader.Execute()
    assert image.GetSpacing() == pytest.approx((0.7, 0.7, 1.25), abs=1e-4)
    middle = np.array([-12.0, 30.0, -45.0]) + 12.5 * np.array(NORMAL)
    first, last = (np.array(image.TransformIndexToPhysicalPoint((0, 0, index))) for index in (0, 22))
    np.testing.assert_allclose((first + last) / 2, middle, atol=1e-3)
    np.testing.assert_allclose((last - first) / 27.5, NORMAL, atol=1e-4)
    # Thin slice 11 is centred in the middle of the series, between thick slices 2 and 3, and 4 mm are averaged.
    values = SimpleITK.GetArrayFromImage(image).astype(float)
    offsets = (np.arange(23) - 11) * 1.25 + 12.5
    for index, thick in enumerate(pixels(6).astype(float)):
        overlap = np.clip(np.minimum(offsets + 0.625, 5 * index + 2) - np.maximum(offsets - 0.625, 5 * index - 2), 0, 2)
        again = np.tensordot(overlap / overlap.sum(), values, 1)
        assert np.abs(again - thick).max() < 1.0


def test_sampler_and_times_are_those_of_every_command_that_samples(tiny: Path, tmp_path: Path) -> None:
    source = thick_set(tmp_path / "thick.h5", [thick_case("thick")])
    made = []
    for name, more in (("a", ["--sampler", "heun", "--set", "times=[999, 300.5, 2]"]), ("b", ["--times", "karras"])):
        assert run(arguments(tiny, source, tmp_path / f"{name}.h5", "--spacing", "1", *more)) == 0
        with open_set(tmp_path / f"{name}.h5") as stored:
            made.append((stored.provenance.steps[-1].config, next(iter(stored))["image"]))
    (first, image), (second, other) = made
    assert (first["sampler"], first["times"], second["times"]) == ("heun", [999.0, 300.5, 2.0], "karras")
    assert (image != other).any()


def test_the_thin_truth_cannot_be_seen(tiny: Path, tmp_path: Path) -> None:
    """A study of two series: replacing the thin one by noise changes nothing of what is made of the thick one."""
    truth = np.repeat(pixels(5), 4, axis=0)[:, None]
    noise = np.random.default_rng(9).integers(-1000, 1000, truth.shape).astype(np.int16)
    made = []
    for name, image in (("truth", truth), ("noise", noise)):
        thin = Case("thin", {"image": image}, "test", (1.0, 1.0, 1.0), (0.0, 0.0, -1.5), frame="f", thickness=1.0)
        study = thick_set(tmp_path / f"{name}.h5", [thin, thick_case("thick", frame="f", thickness=4.0)])
        output = tmp_path / f"{name}-thin.h5"
        assert run(arguments(tiny, study, output, "--spacing", "1", "--keep-going")) == 1  # thin cannot be refined
        with open_set(output, random_access=True) as stored:
            assert [row.id for row in stored.cases] == ["thick"]
            made.append(stored.case(0)["image"])
    np.testing.assert_array_equal(*made)


def test_shards_join_and_pipes_give_the_same_content(medgen: Medgen, tiny: Path, tmp_path: Path) -> None:
    source = thick_set(tmp_path / "thick.h5", [thick_case(f"c{n}", 4 + n, seed=n) for n in range(3)])
    options = ("--spacing", "1.5", "--batch-size", "2", "--precision", "float32")
    assert run(arguments(tiny, source, tmp_path / "whole.h5", *options)) == 0
    parts = [str(tmp_path / f"{part}.h5") for part in range(2)]
    for part, path in enumerate(parts):
        assert run(arguments(tiny, source, path, *options, "--shard", f"{part}/2")) == 0
    assert run(["merge", *parts, "-o", str(tmp_path / "merged.h5")]) == 0
    assert (tmp_path / "merged.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    stream = medgen("merge", str(source), "-o", "-").stdout
    piped = medgen(*arguments(tiny, "-", "-", *options), input=stream)
    assert piped.returncode == 0, piped.stderr
    (tmp_path / "piped").write_bytes(piped.stdout)
    with open_set(tmp_path / "whole.h5") as whole, open_set(tmp_path / "piped") as other:
        for a, b in zip(whole, other, strict=True):
            np.testing.assert_array_equal(a["image"], b["image"])


def test_samples_store_their_spread_and_the_report_counts(tiny: Path, tmp_path: Path) -> None:
    source = thick_set(tmp_path / "thick.h5", [thick_case("a"), thick_case("b", seed=1)])
    report = tmp_path / "report.json"
    more = ["--spacing", "2", "--samples", "2", "--report", str(report)]
    assert run(arguments(tiny, source, tmp_path / "thin.h5", *more)) == 0
    assert json.loads(report.read_text())["slices"] == 20
    with open_set(tmp_path / "thin.h5", random_access=True) as stored:
        assert stored.arrays()["spread"] == ((1, SIDE, SIDE), np.dtype(np.float16))
        assert stored.header.notes["interpolated"] == "to 2 mm by a generative model"
        assert run(["check", str(tmp_path / "thin.h5")]) == 0


def test_without_a_model_it_is_a_spline_that_gives_the_thick_slices_back(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = thick_set(tmp_path / "thick.h5", [thick_case("a")])
    for name, more in (("corrected", []), ("cubic", ["--no-consistency"])):
        assert run(["interpolate", str(source), "--spacing", "1", "-o", str(tmp_path / name), *more]) == 0
    assert run(arguments(tiny, source, tmp_path / "zero", "--spacing", "1", "--no-consistency", model="zero")) == 0
    images = {}
    for name in ("corrected", "cubic", "zero"):
        with open_set(tmp_path / name, random_access=True) as stored:
            images[name] = stored.case(0)["image"].astype(int)[:, 0]
    np.testing.assert_allclose(images["corrected"], images["zero"], atol=1)
    again = images["corrected"].reshape(5, 4, SIDE, SIDE).mean(axis=1)
    assert np.abs(again - pixels(5)).max() < 1
    assert np.abs(images["cubic"].reshape(5, 4, SIDE, SIDE).mean(axis=1) - pixels(5)).max() > 20
    one = [
        "interpolate",
        str(source),
        "--spacing",
        "1",
        "-o",
        str(tmp_path / "x"),
        "--vae",
        str(tiny / "vae.safetensors"),
    ]
    assert run(one) == 2
    assert "--model and --vae go together" in capsys.readouterr().err


def test_images_of_another_unit_need_a_word(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = SetHeader("image", derive("make", {}), Intensity(1 / 8192, 0.0, "relative", (0.0, 1.0)))
    with create_set(tmp_path / "mr.h5", header) as writer:
        case = thick_case("mr")
        writer.write(replace(case, arrays={"image": np.abs(case["image"]) * 9}))
    assert run(arguments(tiny, tmp_path / "mr.h5", tmp_path / "out.h5", "--spacing", "1")) == 65
    assert "the set's values are in relative, the model was trained on HU" in capsys.readouterr().err
    more = ["--spacing", "1", "--window", "0,1"]
    assert run(arguments(tiny, tmp_path / "mr.h5", tmp_path / "out.h5", *more)) == 0
    with open_set(tmp_path / "out.h5") as reader:
        assert reader.header.intensity == header.intensity


@pytest.mark.parametrize(
    ("more", "status", "sentence"),
    [
        ([], 2, "the spacing of the thin slices is missing; give it with --spacing MM"),
        (["--spacing", "4"], 65, "case a: its slices are 4 mm apart, and 4 mm would not refine them"),
        (["--spacing", "1", "--window", "3,1"], 2, "LOW must be below HIGH"),
        (["--spacing", "1", "--split", "train"], 65, "no case was interpolated"),
        (["--spacing", "1", "--consistency", "never"], 78, "consistency"),
    ],
)
def test_bad_calls_end_in_one_sentence(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], status: int, sentence: str
) -> None:
    source = thick_set(tmp_path / "thick.h5", [thick_case("a")])
    assert run(arguments(tiny, source, tmp_path / "out.h5", *more)) == status
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out.h5").exists()


def test_models_of_another_kind_are_refused(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = thick_set(tmp_path / "thick.h5", [thick_case("a")])
    call = arguments(tiny, source, tmp_path / "out.h5", "--spacing", "1")
    call[3] = str(tiny / "model.safetensors")
    assert run(call) == 65
    assert "is a model of kind 'denoiser'; expected 'interpolator'" in capsys.readouterr().err
    for model, taker in (
        ("interpolators/random", "'interpolator'; expected 'denoiser'; 'medgen interpolate' takes it"),
        ("normalizer.safetensors", "'normalizer'; expected 'denoiser'; 'medgen normalize' takes it"),
        ("vae.safetensors", "'vae'; expected 'denoiser'; --vae takes it"),
    ):
        assert run(["generate", str(tiny / model), "-o", str(tmp_path / "g.h5")]) == 65
        assert f"is a model of kind {taker}" in capsys.readouterr().err
    assert run(arguments(tiny, tmp_path / "nothing.zip", tmp_path / "out.h5", "--spacing", "1")) == 66


def test_a_full_temporary_folder_is_named(medgen: Medgen, tiny: Path, tmp_path: Path) -> None:
    """Writing stops at 60 kB; what is made of the whole case is 80 kB."""
    source = thick_set(tmp_path / "thick.h5", [thick_case("a", 10)])
    (tmp_path / "scratch").mkdir()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    call = ["interpolate", str(source), "--spacing", "1", "-o", str(tmp_path / "thin.h5")]
    done = medgen(*call, preexec_fn=limit, env={"TMPDIR": str(tmp_path / "scratch")})
    assert done.returncode == 74
    last = done.stderr.decode().strip().splitlines()[-1]
    assert last.startswith(
        f"medgen interpolate: {tmp_path / 'scratch'}: a temporary file there failed: File too large;"
    )
    assert last.endswith("free some space, or set TMPDIR to a folder that has some")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["scratch", "thick.h5"]


def test_a_tilted_series_and_one_with_a_gap_are_refused(
    medgen: Medgen, tiny: Path, tmp_path: Path, write_slice: Callable[..., Path]
) -> None:
    for index, image in enumerate(pixels(5)):
        z = 5.0 * index
        write_slice(tmp_path / "gap" / f"{index}.dcm", image, z=z + 5.0 * (index > 2))
        write_slice(tmp_path / "tilt" / f"{index}.dcm", image, ImagePositionPatient=[0.0, 0.3 * z, z])
    write_slice(tmp_path / "single" / "0.dcm", pixels(1)[0])
    for name, sentence in (
        ("gap", b"uneven gaps: its slices cannot be interpolated; preprocess with --mend"),
        ("tilt", b"gantry tilt: its slices cannot be interpolated; preprocess with --mend"),
    ):
        done = medgen(*arguments(tiny, tmp_path / name, tmp_path / "out.h5", "--spacing", "1"))
        assert done.returncode == 65
        assert sentence in done.stderr
    done = medgen(*arguments(tiny, tmp_path / "single", tmp_path / "out.h5", "--spacing", "1"))
    assert done.returncode == 65
    assert b"no images left to preprocess, no stack of 2 or more slices" in done.stderr


def test_files_are_read_as_preprocess_reads_them(
    tmp_path: Path, write_slice: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """CT as NIfTI that says nothing, beside a series with a gap that is to be mended, and one to be passed over."""
    volume = np.random.default_rng(0).integers(-500, 500, (12, 12, 4)).astype(np.int16)
    image = nibabel.Nifti1Image(volume, np.diag([-0.5, -0.5, 5.0, 1.0]))
    (tmp_path / "in").mkdir()
    nibabel.save(image, tmp_path / "in" / "v.nii.gz")
    call = ["interpolate", str(tmp_path / "in"), "--spacing", "2.5", "-o", str(tmp_path / "thin.h5"), "--force"]
    assert run(call) == 0
    assert "1 NIfTI volumes do not say what they show" in capfd.readouterr().err
    assert run([*call, "--modality", "CT"]) == 0
    assert "do not say" not in capfd.readouterr().err
    with open_set(tmp_path / "thin.h5") as reader:
        assert len(list(reader)) == 1
        assert reader.header.intensity == Intensity()
    for index, pixels in enumerate(volume.transpose(2, 1, 0)):
        z = 5.0 * (index + (index > 1))
        write_slice(tmp_path / "in" / f"{index}.dcm", pixels, z=z, SeriesInstanceUID="1.2.1")
        write_slice(tmp_path / "in" / f"mr{index}.dcm", pixels, z=z, SeriesInstanceUID="1.2.2", Modality="MR")
    assert run([*call, "--modality", "CT", "--series", "CT"]) == 65
    assert "preprocess with --mend" in capfd.readouterr().err
    assert run([*call, "--modality", "CT", "--series", "CT", "--mend"]) == 0
    with open_set(tmp_path / "thin.h5") as reader:
        assert reader.header.intensity == Intensity()
        assert sorted((len(case), case.mended) for case in reader) == [(8, ""), (9, "uneven gaps")]
    assert run(["interpolate", str(tmp_path / "thin.h5"), "--spacing", "1", "--series", "CT"]) == 2
    assert "--series: for files and folders, but only sets are given" in capfd.readouterr().err
