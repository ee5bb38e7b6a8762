from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.cli.app import run
from medgen.evaluation.section import number

VOID = {"meta", "img", "br", "path", "rect"}
FIDELITY = ["--set", "fidelity.subsets=5"]


class Balanced(HTMLParser):
    """Fails on a tag that is closed in the wrong place, and keeps what the tags hold."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [value for name in ("src", "href", "action", "data", "srcset") if (value := values.get(name))]
        self.anchors.add(values.get("id") or "")
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def write(
    path: Path, noise: float, *, count: int = 14, unit: str = "HU", window: tuple[float, float] = (-1000, 400)
) -> Path:
    """The same blobs in every set, each with its own noise: cases of one slice, of two in every third."""
    random = np.random.default_rng(5)
    header = SetHeader(
        "image", derive("preprocess", {"noise": noise}, sources="source-x"), Intensity(1, 0, unit, window)
    )
    y, x = np.mgrid[:24, :24]
    with create_set(path, header) as writer:
        for index in range(count):
            depth = 2 if index % 3 == 0 else 1
            places = random.uniform(6, 18, (depth, 2))
            blobs = [800 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 20) - 900 for u, v in places]
            image = np.stack(blobs)[:, None] + noise * random.normal(0, 1, (depth, 1, 24, 24))
            writer.write(Case(f"case-{index:02d}", {"image": image.astype(np.int16)}, "test", (2.0, 0.5, 0.5)))
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """real.h5, and few.h5 and many.h5 with little and much noise upon it."""
    folder = tmp_path_factory.mktemp("sets")
    for name, noise in (("real", 0.0), ("few", 20.0), ("many", 60.0)):
        write(folder / f"{name}.h5", noise)
    return folder


@pytest.fixture(scope="module")
def compared(sets: Path) -> tuple[dict[str, Any], str]:
    """The JSON and the page of few and many against real."""
    call = ["evaluate", str(sets / "few.h5"), str(sets / "many.h5"), "--reference", str(sets / "real.h5"), *FIDELITY]
    texts = []
    for name in ("one", "two"):
        outputs = ["--json", str(sets / f"{name}.json"), "--report", str(sets / f"{name}.html")]
        assert run([*call, *outputs]) == 0
        texts.append(((sets / f"{name}.json").read_bytes(), (sets / f"{name}.html").read_bytes()))
    assert texts[0] == texts[1]  # no clock, no chance
    return json.loads(texts[0][0]), texts[0][1].decode()


def parsed(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_stands_alone(compared: tuple[dict[str, Any], str], sets: Path) -> None:
    numbers, page = compared
    parser = parsed(page)
    outside = [link for link in parser.links if not link.startswith(("data:image/png;base64,", "#"))]
    assert outside == []
    assert {link[1:] for link in parser.links if link.startswith("#")} <= parser.anchors
    assert not re.search(r"https?:|<script|<link|<iframe|@import|url\(", page)
    assert str(sets) not in page
    assert str(sets) not in json.dumps(numbers)


def test_the_page_holds_the_numbers_of_the_json(compared: tuple[dict[str, Any], str]) -> None:
    numbers, page = compared
    embedded = re.search(r"<pre>(.*?)</pre>", page, re.DOTALL)
    assert embedded is not None
    assert json.loads(html.unescape(embedded[1])) == numbers
    cells = " ".join(parsed(page).cells)
    for one in numbers["sets"]:
        assert number(one["fidelity"]["frechet_distance"]["value"]) in cells
        assert number(one["reconstruction"]["psnr"]["mean"]) in cells
        assert one["digest"][:12] in cells
    for test in numbers["comparison"]["pairs"][0]["tests"]:
        assert number(test["first"]) in cells
        assert number(test["difference"]["value"], 3) in cells


def test_the_page_tells_where_everything_came_from(compared: tuple[dict[str, Any], str]) -> None:
    numbers, page = compared
    for one in [*numbers["sets"], numbers["reference"]]:
        assert one["provenance"] in page
        assert one["digest"] in page
    assert numbers["provenance"] in page
    assert "preprocess" in page
    for name in ("torch", "numpy", "scipy"):
        assert f"<dt>{name}</dt><dd>{numbers['versions'][name]}</dd>" in page
    assert "fidelity.subsets</dt><dd>5</dd>" in page


def test_distributions_and_images_are_in_the_page(compared: tuple[dict[str, Any], str]) -> None:
    _, page = compared
    assert page.count('<svg class="chart"') >= 3
    assert page.count("data:image/png;base64,") >= 3 * 8  # eight examples of each set
    assert "Worst pairs: set 2" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_sets_are_tested_against_each_other_sample_by_sample(compared: tuple[dict[str, Any], str]) -> None:
    numbers, page = compared
    (pair,) = numbers["comparison"]["pairs"]
    assert (pair["first"], pair["second"], pair["shared_cases"]) == ("set 1", "set 2", 14)
    psnr = next(test for test in pair["tests"] if test["score"] == "psnr")
    assert (psnr["cases"], psnr["samples"]) == (14, 19)
    first, second = (one["reconstruction"]["psnr"]["mean"] for one in numbers["sets"])
    assert psnr["difference"]["value"] == pytest.approx(second - first)
    assert psnr["difference"]["high"] < -5
    assert psnr["wins"] == 0.0
    assert psnr["p"] <= psnr["p_holm"] < 0.01
    assert "Sample by sample: set 2 against set 1" in page


def test_sets_of_other_cases_are_not_paired(sets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    header = SetHeader("image", derive("preprocess", {}, sources="source-y"), Intensity())
    with create_set(tmp_path / "others.h5", header) as writer:
        for index in range(12):
            image = random.integers(-900, 300, (1, 1, 24, 24)).astype(np.int16)
            writer.write(Case(f"other-{index}", {"image": image}, "test"))
    both = [str(sets / "few.h5"), str(tmp_path / "others.h5")]
    output = ["-o", str(tmp_path / "e.json"), "--report", str(tmp_path / "e.html")]
    call = ["evaluate", *both, "--reference", str(sets / "real.h5"), "--metrics", "fidelity", *FIDELITY]
    assert run([*call, *output]) == 0
    assert "no case is in both" in capfd.readouterr().err
    assert json.loads((tmp_path / "e.json").read_bytes())["comparison"]["pairs"][0]["tests"] == []
    page = (tmp_path / "e.html").read_text(encoding="utf-8")
    parsed(page)
    assert "no case is in both" in page


def test_a_page_is_kept_unless_forced(sets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.HTML"
    page.write_text("mine", encoding="utf-8")
    call = ["evaluate", str(sets / "few.h5"), "--reference", str(sets / "real.h5"), "--metrics", "reconstruction"]
    call += ["--report", str(page)]
    assert run(call) == 73
    assert page.read_text(encoding="utf-8") == "mine"
    assert run([*call, "--force"]) == 0
    assert "<h1>The set</h1>" in page.read_text(encoding="utf-8")
    capfd.readouterr()


def test_facts_of_the_run_as_before(sets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    facts = tmp_path / "facts.json"
    call = ["evaluate", str(sets / "few.h5"), "--reference", str(sets / "real.h5"), "--metrics", "reconstruction"]
    assert run([*call, "--report", str(facts)]) == 0
    assert json.loads(facts.read_bytes())["command"] == "evaluate"
    assert run(["info", str(sets / "few.h5"), "--report", str(tmp_path / "page.html")]) == 2
    assert "give a name ending in .json" in capfd.readouterr().err
    assert not (tmp_path / "page.html").exists()


@pytest.fixture(scope="module")
def exported(sets: Path) -> Path:
    """The sets as folders of files."""
    for kind in ("png", "dicom", "nifti"):
        for name in ("real", "few"):
            assert (
                run(["export", str(sets / f"{name}.h5"), "--to", kind, "-o", str(sets / f"{name}-{kind}"), "-q"]) == 0
            )
    return sets


def test_folders_give_the_numbers_of_the_set(exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = {}
    for name in ("few.h5", "few-dicom", "few-nifti"):
        output = tmp_path / f"{name}.json"
        call = ["evaluate", str(exported / name), "--reference", str(exported / "real.h5"), "--metrics", "fidelity"]
        assert run([*call, *FIDELITY, "-o", str(output)]) == 0, capfd.readouterr().err
        found[name] = json.loads(output.read_bytes())["sets"][0]
    assert found["few-dicom"]["fidelity"] == found["few-nifti"]["fidelity"] == found["few.h5"]["fidelity"]
    assert found["few-dicom"]["name"] == "the set"
    assert "few-dicom: 19 slices of 14 cases" in capfd.readouterr().err


def test_folders_of_png_pair_by_file_name(exported: Path, tmp_path: Path) -> None:
    call = ["evaluate", str(exported / "few-png"), "--reference", str(exported / "real-png"), *FIDELITY]
    assert run([*call, "-o", str(tmp_path / "e.json"), "--report", str(tmp_path / "e.html")]) == 0
    one = json.loads((tmp_path / "e.json").read_bytes())["sets"][0]
    assert one["reconstruction"]["pairs"] == 19
    assert one["reconstruction"]["psnr"]["mean"] == pytest.approx(20 * np.log10(1400 / 20), abs=1.0)
    page = (tmp_path / "e.html").read_text(encoding="utf-8")
    assert "grey value" in page
    assert str(exported) not in page


def test_a_folder_of_real_images_fits_the_set(exported: Path, tmp_path: Path) -> None:
    small = ["evaluate", str(exported / "few.h5"), "--reference", str(exported / "real-dicom"), "--metrics", "fidelity"]
    assert run([*small, *FIDELITY, "-o", str(tmp_path / "e.json")]) == 0
    whole = ["evaluate", str(exported / "few.h5"), "--reference", str(exported / "real.h5"), "--metrics", "fidelity"]
    assert run([*whole, *FIDELITY, "-o", str(tmp_path / "f.json")]) == 0
    a, b = (json.loads((tmp_path / name).read_bytes())["sets"][0]["fidelity"] for name in ("e.json", "f.json"))
    assert a["frechet_distance"]["value"] == pytest.approx(b["frechet_distance"]["value"])


def refusals(sets: Path, tmp_path: Path) -> Iterator[tuple[list[str], int, str]]:
    real = str(sets / "real.h5")
    yield [str(sets / "few-png"), "--reference", real], 65, "grey values cannot become HU again"
    other = write(tmp_path / "other.h5", 1.0, window=(-160, 240))
    yield [str(other), "--reference", real], 65, "preprocess both with one --window"
    other = write(tmp_path / "mr.h5", 1.0, unit="value")
    yield [str(other), "--reference", real], 65, "preprocess both with the same --window and --modality"
    yield [str(sets / "few.h5"), "--reference", real, "--size", "32"], 2, "only sets are given"
    yield [str(sets / "none"), "--reference", real], 66, "no such file"
    yield [str(sets / "few-png"), "--reference", real, "--size", "a"], 78, "size"
    (tmp_path / "empty").mkdir()
    yield [str(tmp_path / "empty"), "--reference", real], 65, "holds no images"


def test_what_cannot_be_compared_is_refused(exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, status, reason in refusals(exported, tmp_path):
        assert run(["evaluate", *arguments, "--metrics", "fidelity"]) == status, arguments
        assert reason in capfd.readouterr().err.splitlines()[-1]


def test_a_damaged_file_is_named_or_left_out(exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (exported / "few-png" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    call = ["evaluate", str(exported / "few-png"), "--reference", str(exported / "real-png"), "--metrics", "fidelity"]
    try:
        assert run([*call, *FIDELITY]) == 65
        assert "damaged.png" in capfd.readouterr().err
        assert run([*call, *FIDELITY, "--keep-going", "-o", str(tmp_path / "e.json")]) == 1
        assert json.loads((tmp_path / "e.json").read_bytes())["sets"][0]["slices"] == 19
    finally:
        (exported / "few-png" / "damaged.png").unlink()


def test_sets_are_called_as_the_user_says_and_never_after_their_files(
    sets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in ("doe_a", "doe_b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "samples.h5").write_bytes((sets / "few.h5").read_bytes())
    call = ["evaluate", str(tmp_path / "doe_a/samples.h5"), str(tmp_path / "doe_b/samples.h5")]
    call += ["--reference", str(sets / "real.h5"), "--metrics", "reconstruction"]
    assert run(call) == 0
    told = capfd.readouterr()
    assert [one["name"] for one in json.loads(told.out)["sets"]] == ["set 1", "set 2"]
    assert f"set 2 is {tmp_path / 'doe_b/samples.h5'}" in told.err
    with open_set(sets / "few.h5", random_access=True) as stored:
        assert json.loads(told.out)["sets"][0]["digest"] == stored.tail.digest
    assert run([*call, "--names", "old,new", "--report", str(tmp_path / "page.html")]) == 0
    assert [one["name"] for one in json.loads(capfd.readouterr().out)["sets"]] == ["old", "new"]
    assert "<h1>Old and new</h1>" in (tmp_path / "page.html").read_text(encoding="utf-8")
    for wrong in ("old", "old,old", "a,b,c"):
        assert run([*call, "--names", wrong]) == 2
        assert "to 2 sets" in capfd.readouterr().err
