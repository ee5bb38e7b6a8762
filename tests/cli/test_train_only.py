"""`preprocess --train-only`: patients with any other label are kept out of the training split, whole."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medgen.artifacts.sets import open_set
from medgen.cli.app import run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 pictures of 200 patients, of whom every second one has one or two that are not normal."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    rows = ["path,label,patient"]
    for number in range(400):
        Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8)).save(folder / f"{number}.png")
        patient = number // 2
        ill = patient % 2 == 1 and (number % 2 == 1 or patient % 3 == 0)
        rows.append(f"{number}.png,{'fracture' if ill else 'normal'},p{patient}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_only_patients_without_other_labels_train(
    pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a.h5"
    table, split = str(pictures / "table.csv"), ["--split-fractions", "0.6,0.1,0.3"]
    assert run(["preprocess", table, "-o", str(output), *split, "--train-only", "normal", "--workers", "1"]) == 0
    assert "cases kept out of the training split, which is for 'normal'" in capfd.readouterr().err
    assert run(["preprocess", table, "-o", str(tmp_path / "b.h5"), *split, "--workers", "1"]) == 0
    with open_set(output) as reader, open_set(tmp_path / "b.h5") as free:
        names = reader.header.label_names
        before = {case.id: case.split for case in free}
        splits = defaultdict(list)
        for case in reader:
            splits[case.split].append(case)
    assert {names[int(case["label"][0])] for case in splits["train"]} == {"normal"}
    # Who may train is where it was; the others are dealt out anew as val and test are to each other.
    moved = Counter(name for name, cases in splits.items() for case in cases if before[case.id] != name)
    assert set(moved) == {"val", "test"}
    assert moved.total() == pytest.approx(120, abs=30)  # of 200 pictures of patients who must not train
    assert moved["test"] / moved.total() == pytest.approx(0.75, abs=0.15)
    normal = names.index("normal")
    ill_patients_normal = [case for name in ("val", "test") for case in splits[name] if case["label"][0] == normal]
    assert ill_patients_normal  # normal pictures of patients who also have others


def test_a_label_that_nobody_has_is_refused(pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["preprocess", str(pictures / "table.csv"), "-o", str(tmp_path / "a.h5"), "--workers", "1"]
    assert run([*arguments, "--train-only", "sound"]) == 2
    assert "no case has that label: its classes are fracture, normal" in capfd.readouterr().err
    assert run(["preprocess", str(pictures / "3.png"), "-o", str(tmp_path / "b.h5"), "--train-only", "normal"]) == 2
    assert "there is no column 'label' of names" in capfd.readouterr().err
