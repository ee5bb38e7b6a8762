"""`medgen evaluate` of anomaly maps, run for real: phantoms, a stand-in for the normalizer, maps, table and JSON."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medgen.artifacts.schema import Case
from medgen.artifacts.sets import create_set, open_set

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def sets(medgen: Run, tmp_path: Path) -> Path:
    """images.h5 of phantoms, and normal.h5: the images closed, which fills small dark places."""
    folder = tmp_path
    ask = ("-n", 36, "--size", 64, "--view", "half", "--lesions", "periapical", "--seed", 3, "--workers", 2)
    assert medgen("phantom", "dental", "-o", folder / "x", *ask, "--set", "severity=[0.8,1.0]").returncode == 0
    source = ("preprocess", folder / "x/dicom", "--labels", folder / "x/labels.csv", "--masks", folder / "x/masks")
    split = ("--train-only", "normal", "--split-fractions", "0.3,0.3,0.4")
    read = medgen(*source, *split, "-o", folder / "images.h5")
    assert read.returncode == 0, read.stderr
    with open_set(folder / "images.h5") as reader, create_set(folder / "normal.h5", reader.header) as writer:
        for case in reader:
            image = ndimage.grey_closing(case["image"], (1, 1, 7, 7))
            writer.write(Case(case.id, {"image": image.astype(case["image"].dtype)}, case.split))
    return folder


def test_maps_from_a_pipe_beside_a_baseline(medgen: Run, sets: Path, tmp_path: Path) -> None:
    maps = medgen("anomaly-map", sets / "images.h5", sets / "normal.h5", "--smoothing", 1)
    assert maps.returncode == 0, maps.stderr
    ask = ("evaluate", "-", "--training", sets / "images.h5", "--false-positive-rate", 0.02, "-o", tmp_path / "e.json")
    done = medgen(*ask, input=maps.stdout)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "e.json").read_text())["sets"][0]["anomaly"]
    with open_set(sets / "images.h5", random_access=True) as stored:
        assert result["slices"] == sum(row.split == "test" for row in stored.cases)
    assert result["false_positive_rate"] == 0.02
    main, nearest = result["detectors"]["normalizer"], result["detectors"]["nearest"]
    assert main["pixel_auroc"]["low"] <= main["pixel_auroc"]["value"] <= main["pixel_auroc"]["high"]
    assert main["pixel_average_precision"]["value"] > 2 * result["ill_share_of_pixels"]
    assert main["threshold"] is not None
    assert nearest["pixel_auroc"] is not None
    part = medgen(*ask[:-1], tmp_path / "test.json", "--split", "test", input=maps.stdout)
    assert part.returncode == 0, part.stderr
    chosen = json.loads((tmp_path / "test.json").read_text())["sets"][0]["anomaly"]
    assert chosen["detectors"] == result["detectors"]
    table = done.stderr.decode()
    for words in ("nearest training image", "guessing", "best Dice", "without --vae"):
        assert words in table
    assert np.isfinite(main["dice"]["value"])
    refused = medgen("evaluate", sets / "images.h5", "--metrics", "anomaly")
    assert refused.returncode == 2
    assert "make them with anomaly-map" in refused.stderr.decode().strip().splitlines()[-1]
