"""`extract-latents` tells how the latents are spread, channel by channel, and which cases lie far from the rest."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.cli.app import run

Medgen = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty cases of faint noise, and one, case-07, of another brightness."""
    path = tmp_path_factory.mktemp("images") / "images.h5"
    rng = np.random.default_rng(0)
    header = SetHeader("image", derive("preprocess", {}), Intensity(), label_names=("ill", "normal"))
    with create_set(path, header) as writer:
        for number in range(31):
            image = rng.normal(-300 if number != 7 else 350, 20, (2, 1, 32, 32)).astype(np.int16)
            writer.write(Case(f"case-{number:02d}", {"image": image, "label": np.array([1, 0])}))
    return path


def encode(tiny: Path, images: Path | str, output: Path | str, *more: str) -> list[str]:
    return ["extract-latents", str(images), "--vae", str(tiny / "vae.safetensors"), "-o", str(output), *more]


def test_statistics_by_channel_are_kept_in_file_and_stream_and_told_by_info(
    tiny: Path, images: Path, tmp_path: Path, medgen: Medgen, capfd: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert run(encode(tiny, images, tmp_path / "z.h5", "--report", str(report))) == 0
    with open_set(tmp_path / "z.h5", random_access=True) as stored:
        scaled = (stored.column("latent").astype(np.float64) - 0.25) * 0.5
        tail = stored.tail
        assert stored.header.label_names == ("ill", "normal")
    np.testing.assert_allclose(tail.latent_mean, scaled.mean((0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(tail.latent_std, scaled.std((0, 2, 3)), rtol=1e-9)
    facts = json.loads(report.read_text())
    assert facts["latent_mean_by_channel"] == list(tail.latent_mean)
    assert (facts["latent_mean"], facts["latent_std"]) == pytest.approx((scaled.mean(), scaled.std()))
    capfd.readouterr()
    assert run(["info", str(tmp_path / "z.h5"), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    np.testing.assert_allclose(told["latent_std"], tail.latent_std, rtol=1e-5)
    piped = medgen(*encode(tiny, images, "-"))
    assert json.loads(medgen("info", "-", "--json", input=piped.stdout).stdout)["latent_mean"] == told["latent_mean"]
    assert run(["check", str(tmp_path / "z.h5")]) == 0


@pytest.mark.parametrize(("factor", "status"), [(1 + 1e-12, 0), (1.01, 65), (None, 0)])
def test_check_asks_of_older_sets_that_the_statistics_be_true_but_not_to_the_last_bit(
    tiny: Path, images: Path, tmp_path: Path, age: Callable[..., Path], factor: float | None, status: int
) -> None:
    path = tmp_path / "z.h5"
    assert run(encode(tiny, images, path)) == 0
    with open_set(path) as stored:
        told = {name: getattr(stored.tail, name) for name in ("latent_mean", "latent_std")}
    age(path, tail={name: [value * factor for value in values] if factor else [] for name, values in told.items()})
    assert run(["check", str(path)]) == status


def test_joined_shards_have_the_statistics_of_the_whole(tiny: Path, images: Path, tmp_path: Path) -> None:
    assert run(encode(tiny, images, tmp_path / "whole.h5")) == 0
    shards = [str(tmp_path / f"{part}.h5") for part in range(3)]
    for part, shard in enumerate(shards):
        assert run(encode(tiny, images, shard, "--shard", f"{part}/3")) == 0
    assert run(["merge", *shards, "-o", str(tmp_path / "joined.h5")]) == 0
    with open_set(tmp_path / "joined.h5") as joined, open_set(tmp_path / "whole.h5") as whole:
        assert joined.tail == whole.tail
        assert len(joined.tail.latent_mean) == 4


def test_outliers_are_warned_of_by_case(
    tiny: Path, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert run(encode(tiny, images, tmp_path / "z.h5", "--report", str(report))) == 0
    warnings = [line for line in capfd.readouterr().err.splitlines() if "outlier" in line]
    assert len(warnings) == 1
    assert "warning: case case-07 is an outlier: the " in warnings[0]
    (outlier,) = json.loads(report.read_text())["outliers"]
    assert outlier["case"] == "case-07"
    assert outlier["deviations"] > 8
    assert run(encode(tiny, images, tmp_path / "y.h5", "--set", "outliers=0")) == 0
    assert "outlier" not in capfd.readouterr().err
    # Naming them changes nothing in the set.
    assert (tmp_path / "y.h5").read_bytes() == (tmp_path / "z.h5").read_bytes()
