"""`normalize` and `anomaly-map` as commands: pipes, shards, seeds, calibration, and what is refused."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.cli.app import run

Medgen = Callable[..., subprocess.CompletedProcess[bytes]]
FEW = ["--steps", "2", "--flow-steps", "1"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten labelled cases, every second one ill with a mask, all in one window."""
    path = tmp_path_factory.mktemp("images") / "images.h5"
    rng = np.random.default_rng(0)
    header = SetHeader(
        "image", derive("preprocess", {}, sources="source-x"), Intensity(), label_names=("ill", "normal")
    )
    with create_set(path, header) as writer:
        for number in range(10):
            arrays = {
                "image": rng.integers(-1000, 400, (1, 1, 32, 32)).astype(np.int16),
                "mask": (rng.random((1, 1, 32, 32)) > 0.8).astype(np.uint8),
                "label": np.array([number % 2]),
            }
            writer.write(Case(f"case-{number}", arrays, "val" if number < 4 else "test", (1.0, 0.5, 0.5)))
    return path


def normalize(tiny: Path, images: Path, output: Path | str, *more: str) -> list[str]:
    models = ["--model", str(tiny / "normalizer.safetensors"), "--vae", str(tiny / "vae.safetensors")]
    few = FEW[2:] if "flow" in more else FEW
    return ["normalize", str(images), *models, "-o", str(output), *few, "--precision", "float32", *more]


def test_a_normalized_set_is_the_images_set_with_other_images(tiny: Path, images: Path, tmp_path: Path) -> None:
    assert run(normalize(tiny, images, tmp_path / "g.h5")) == 0
    with open_set(tmp_path / "g.h5", random_access=True) as made, open_set(images, random_access=True) as given:
        assert made.cases == [replace(row, synthetic="altered") for row in given.cases]
        assert made.header.label_names == given.header.label_names
        assert made.header.intensity == given.header.intensity
        for name in ("mask", "label"):
            np.testing.assert_array_equal(made.column(name), given.column(name))
        assert (made.column("image") != given.column("image")).mean() > 0.5
        commands = [step.command for step in made.provenance.steps]
        assert sorted(commands) == ["normalize", "preprocess", "train-diffusion", "train-vae"]


def test_pipes_give_what_files_give(tiny: Path, images: Path, tmp_path: Path) -> None:
    assert run(normalize(tiny, images, tmp_path / "g.h5")) == 0
    assert run(["anomaly-map", str(images), str(tmp_path / "g.h5"), "-o", str(tmp_path / "file.h5")]) == 0
    medgen = f"{shlex.quote(sys.executable)} -m medgen.cli.app"
    words = " ".join(normalize(tiny, images, "-"))
    command = f"set -o pipefail; {medgen} {words} | {medgen} anomaly-map {images} - -o {tmp_path / 'pipe.h5'}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pipe.h5").read_bytes() == (tmp_path / "file.h5").read_bytes()
    with open_set(tmp_path / "pipe.h5", random_access=True) as maps:
        assert maps.header.kind == "map"
        shapes = {name: shape for name, (shape, _) in maps.arrays().items()}
        assert shapes == {
            "image": (1, 32, 32), "normalized": (1, 32, 32), "mask": (1, 32, 32), "label": (), "map": (4, 32, 32),
            "score": (),
        }  # fmt: skip


def test_shards_join_into_the_unsharded_result(tiny: Path, images: Path, tmp_path: Path) -> None:
    more = ["--batch-size", "4", "--draws", "2", "--method", "flow"]
    assert run(normalize(tiny, images, tmp_path / "whole.h5", *more)) == 0
    shards = [str(tmp_path / f"{part}.h5") for part in range(3)]
    for part, shard in enumerate(shards):
        assert run(normalize(tiny, images, shard, *more, "--batch-size", "3", "--shard", f"{part}/3")) == 0
    assert run(["merge", *shards, "-o", str(tmp_path / "joined.h5")]) == 0
    assert (tmp_path / "joined.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    maps = ["anomaly-map", str(images), str(tmp_path / "whole.h5"), "-o"]
    assert run([*maps, str(tmp_path / "maps.h5")]) == 0
    for part in range(3):
        assert run([*maps, str(tmp_path / f"m{part}.h5"), "--shard", f"{part}/3"]) == 0
    assert run(["merge", *(str(tmp_path / f"m{part}.h5") for part in range(3)), "-o", str(tmp_path / "both.h5")]) == 0
    assert (tmp_path / "both.h5").read_bytes() == (tmp_path / "maps.h5").read_bytes()


def test_the_seed_decides_and_nothing_else_does(tiny: Path, images: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert run(normalize(tiny, images, tmp_path / f"{name}.h5", "--seed", str(seed))) == 0
    a, b, c = ((tmp_path / f"{name}.h5").read_bytes() for name in "abc")
    assert a == b != c


def test_one_split_alone_is_mapped_beside_the_whole_set(tiny: Path, images: Path, tmp_path: Path) -> None:
    assert run(normalize(tiny, images, tmp_path / "val.h5", "--split", "val")) == 0
    assert run(normalize(tiny, images, tmp_path / "test.h5", "--split", "test")) == 0
    calibration, output = tmp_path / "normal.h5", tmp_path / "maps.h5"
    assert run(["anomaly-map", str(images), str(tmp_path / "val.h5"), "-o", str(calibration)]) == 0
    maps = ["anomaly-map", str(images), str(tmp_path / "test.h5"), "-o"]
    assert run([*maps, str(output), "--calibrate", str(calibration)]) == 0
    assert run([*maps, str(tmp_path / "raw.h5")]) == 0
    with (
        open_set(output, random_access=True) as found,
        open_set(tmp_path / "raw.h5", random_access=True) as raw,
        open_set(calibration, random_access=True) as normal,
    ):
        assert [row.id for row in found.cases] == [f"case-{number}" for number in range(4, 10)]
        held_out = normal.column("map")[normal.column("label") == 1]
        assert len(held_out) == 2
        level = held_out.mean((0, 2, 3))
        spread = np.sqrt(held_out.var(0, ddof=1).mean((1, 2)))
        # Two images against the ten that the plane counts for, and smoothed: about the same in every pixel.
        rough = (raw.column("map").mean((0, 2, 3)) - level) / spread
        np.testing.assert_allclose(found.column("map").mean((0, 2, 3)), rough, atol=0.2)
        assert '"split": "val"' in found.header.notes["calibrated"]


def test_the_vae_alone_is_a_baseline(tiny: Path, images: Path, tmp_path: Path) -> None:
    vae = ["--vae", str(tiny / "vae.safetensors")]
    assert run(["normalize", str(images), "--method", "vae", *vae, "-o", str(tmp_path / "r.h5")]) == 0
    with open_set(tmp_path / "r.h5") as made:
        assert made.provenance.steps[-1].config == {
            "method": "vae",
            "precision": made.provenance.steps[-1].config["precision"],
        }
        assert made.provenance.steps[-1].seed is None


def test_sampler_and_times_are_those_of_every_command_that_samples(tiny: Path, images: Path, tmp_path: Path) -> None:
    more = ["--sampler", "unipc", "--set", "times=[500, 300.5, 2]"]
    assert run(normalize(tiny, images, tmp_path / "a.h5", *more)) == 0
    assert run(normalize(tiny, images, tmp_path / "b.h5", "--times", "angle")) == 0
    with open_set(tmp_path / "a.h5") as first, open_set(tmp_path / "b.h5") as second:
        config = first.provenance.steps[-1].config
        assert (config["sampler"], config["times"]) == ("unipc", [500.0, 300.5, 2.0])
        assert (next(iter(first))["image"] != next(iter(second))["image"]).any()


def test_the_preview_has_six_panels_a_slice(tiny: Path, images: Path, tmp_path: Path) -> None:
    assert run(normalize(tiny, images, tmp_path / "g.h5")) == 0
    assert run(["anomaly-map", str(images), str(tmp_path / "g.h5"), "-o", str(tmp_path / "m.h5")]) == 0
    sheet = tmp_path / "sheet.png"
    assert run(["preview", str(tmp_path / "m.h5"), "-o", str(sheet), "--limit", "18", "--scale", "2"]) == 0
    with Image.open(sheet) as picture:
        assert picture.width == 6 * (64 + 8) + 8
        pixels = np.asarray(picture)
    assert pixels[:, 2 * 72 + 8 : 6 * 72].std() > 5
    again = tmp_path / "again.png"
    assert run(["preview", str(tmp_path / "m.h5"), "-o", str(again), "--limit", "18", "--scale", "2"]) == 0
    assert again.read_bytes() == sheet.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["normalize", "IMAGES", "--vae", "VAE"], 2, "give --model FILE"),
        (["normalize", "IMAGES", "--model", "MODEL"], 2, "give the VAE"),
        (["normalize", "IMAGES", "--model", "MODEL", "--vae", "VAE", "--method", "vae"], 2, "no --model"),
        (["normalize", "IMAGES", "--model", "MODEL", "--vae", "VAE", "--noise-level", "1.5"], 78, "--noise-level"),
        (["normalize", "IMAGES", "--model", "MODEL", "--vae", "VAE", "--method", "flows"], 78, "method"),
        (
            ["normalize", "IMAGES", "--model", "MODEL", "--vae", "VAE", "--noise-level", "0.9999"],
            78,
            "0.9999 lies outside",
        ),
        (
            ["normalize", "IMAGES", "--model", "DENOISER", "--vae", "VAE"],
            65,
            "of kind 'denoiser'; expected 'normalizer'",
        ),
        (["normalize", "IMAGES", "--model", "MODEL", "--vae", "VAE", "--split", "train"], 65, "no case was normalized"),
        (["anomaly-map", "IMAGES", "OTHER"], 65, "case other of the normalized set is not in the set of images"),
        (["anomaly-map", "-", "-"], 2, "only one set can come from standard input"),
        (["anomaly-map", "IMAGES", "IMAGES", "--weights", "1,2"], 2, "expected three numbers"),
        (["anomaly-map", "IMAGES", "IMAGES", "--calibrate", "IMAGES"], 65, "it must come from anomaly-map"),
        (["anomaly-map", "IMAGES", "WINDOW"], 65, "the values of the two sets mean different things"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    tiny: Path, images: Path, tmp_path: Path, arguments: list[str], status: int, reason: str,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, intensity in (("other", Intensity()), ("window", Intensity(window=(-160.0, 240.0)))):
        with create_set(tmp_path / f"{name}.h5", SetHeader("image", derive("x", {}), intensity)) as writer:
            writer.write(Case("other", {"image": np.zeros((1, 1, 32, 32), np.int16)}))
    places = {
        "IMAGES": images, "VAE": tiny / "vae.safetensors", "MODEL": tiny / "normalizer.safetensors",
        "DENOISER": tiny / "model.safetensors", "OTHER": tmp_path / "other.h5", "WINDOW": tmp_path / "window.h5",
    }  # fmt: skip
    output = tmp_path / "out.h5"
    assert run([*(str(places.get(word, word)) for word in arguments), "-o", str(output)]) == status
    assert reason in capfd.readouterr().err.strip().splitlines()[-1]
    assert not output.exists()


def test_keep_going_names_what_it_leaves_out(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "holes.h5"
    with create_set(path, SetHeader("image", derive("x", {}), Intensity())) as writer:
        for number in range(3):
            image = np.zeros((1, 1, 32, 32), np.float32)
            image[0, 0, 3, 3] = np.nan if number == 1 else 0.0
            writer.write(Case(f"case-{number}", {"image": image}))
    assert run(normalize(tiny, path, tmp_path / "a.h5")) == 65
    assert run(normalize(tiny, path, tmp_path / "b.h5", "--keep-going")) == 1
    assert "left out: case case-1, slice 0" in capfd.readouterr().err
    with open_set(tmp_path / "b.h5") as made:
        assert [case.id for case in made] == ["case-0", "case-2"]


GENERATE = """
import sys
import numpy as np
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set
with create_set("-", SetHeader("image", derive("x", {}), Intensity())) as writer:
    for number in range(int(sys.argv[1])):
        mask = np.zeros((1, 64, 128, 128), np.uint8)
        writer.write(Case(f"case-{number}", {"image": np.zeros((1, 1, 32, 32), np.int16), "mask": mask}))
"""
MEASURE = """
import resource, sys
from medgen.cli.app import run
status = run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


def test_memory_in_a_pipe_does_not_grow_with_the_set(tiny: Path) -> None:
    """Every case carries a mask of one MiB, which the network does not see."""
    peaks = []
    for count in (60, 260):
        words = [*normalize(tiny, Path("-"), "-", "--method", "flow", "--batch-size", "4")]
        with subprocess.Popen([sys.executable, "-c", GENERATE, str(count)], stdout=subprocess.PIPE) as source:
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, *words], stdin=source.stdout, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, timeout=280, check=True,
            )  # fmt: skip
        peaks.append(int(done.stderr.split()[-1]))
    assert peaks[1] < peaks[0] + 60_000  # KiB; 200 more cases hold 200 MiB
