"""`select --verify` and `generate --until verified` for what texts ask: side and finding, as a probe sees them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import GENERATED, Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.artifacts.stream import StreamWriter
from medgen.cli.app import run
from medgen.evaluation.agreement.declaration import ProbeOptions
from medgen.evaluation.segmentation.options import SegmenterOptions
from medgen.feedback.verification.redrawing import Redrawing
from medgen.feedback.verification.verifier import Verifier
from medgen.inference.generate_options import GenerateOptions
from medgen.phantoms.captions import Caption
from medgen.reporting import Silent

SIDE = 24
GREY = Intensity(1.0, 0.0, "grey value", (0.0, 255.0))
PROBE = [word for name in ("side=24", "width=4", "steps=80", "batch_size=16") for word in ("--set", f"probe.{name}")]
Kind = tuple[str, str]


def picture(random: np.random.Generator, side: str, finding: str) -> np.ndarray:
    """Noise, brighter on one side, with a bright square there for a finding that can be seen."""
    image = 60 + 10 * random.standard_normal((1, 1, SIDE, SIDE))
    half = slice(0, SIDE // 2) if side == "left" else slice(SIDE // 2, SIDE)
    image[..., half] += 40
    row, column = random.integers(4, SIDE - 10), half.start + random.integers(2, 5)
    if finding == "blob":
        image[..., row : row + 6, column : column + 6] += 90
    return np.clip(image, 0, 255).astype(np.uint8)


def caption(side: str, finding: str) -> str:
    return Caption("x-ray", "lung", side, finding, number=1 if finding else 0).text


def write(path: Path, shown: Sequence[Kind], told: Sequence[Kind], seed: int, synthetic: str = "") -> Path:
    random = np.random.default_rng(seed)
    header = SetHeader("image", derive("make", {"seed": seed}), GREY)
    with create_set(path, header) as writer:
        for number, (kind, asked) in enumerate(zip(shown, told, strict=True)):
            image = picture(random, *kind)
            writer.write(Case(f"case-{number}", {"image": image}, text=(caption(*asked),), synthetic=synthetic))
    return path


def kinds(count: int, seed: int, findings: Sequence[str] = ("blob", "")) -> list[Kind]:
    random = np.random.default_rng(seed)
    return [
        (("left", "right")[random.integers(2)], findings[int(random.integers(len(findings)))]) for _ in range(count)
    ]


def mirrored(kind: Kind) -> Kind:
    return ("left" if kind[0] == "right" else "right"), kind[1]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real images that show what they say, but for a `veil`, which no image shows."""
    told = kinds(120, 1, ("blob", "", "veil"))
    return write(tmp_path_factory.mktemp("texts") / "real.h5", told, told, 1)


def verified(real: Path, samples: Path, place: Path, *more: str) -> tuple[int, dict[str, Any]]:
    words = ["select", samples, "--verify", "--reference", real, *PROBE, "-o", place / "right.h5"]
    status = run([*map(str, words), *more, "--report", str(place / "report.json")])
    return status, json.loads((place / "report.json").read_text())


def test_images_that_show_another_side_or_finding_do_not_pass(
    real: Path, tmp_path: Path, medgen: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    told = kinds(24, 2)
    shown = [mirrored(kind) if number < 8 else kind for number, kind in enumerate(told)]
    shown[8] = (told[8][0], "" if told[8][1] else "blob")
    samples = write(tmp_path / "samples.h5", shown, told, 2, GENERATED)
    status, report = verified(real, samples, tmp_path)
    assert status == 0
    with open_set(tmp_path / "right.h5", random_access=True) as stored:
        kept = {row.id for row in stored.cases}
    assert kept <= {f"case-{number}" for number in range(9, 24)}
    assert len(kept) >= 12
    finding = report["cases"][0]["findings"][0]
    assert finding["about"] == "text"
    assert finding["asked"]["side"] == told[0][0] != finding["found"]["side"]
    assert "side" in finding["differs"]
    assert report["passed"] == len(kept)
    trust = report["checks"][0]["texts"]["side"]["left"]
    assert trust["judged"]
    assert min(trust["recognised"], trust["rejected"]) >= 0.8


def test_a_first_image_without_a_modality_leaves_that_of_others_to_be_judged(tmp_path: Path) -> None:
    """What is asked of the probe must not depend on which image comes first: in another shard it is another one."""
    random = np.random.default_rng(5)

    def case(number: int, side: str, modality: str, split: str = "train") -> Case:
        told = (modality,) if modality else ()
        words = (f"an image of {('one', 'two')[number % 2]}",)
        return Case(f"c-{number}", {"image": picture(random, side, "")}, split, text=words, modality=told)

    sides = {"left": "photo", "right": "scan"}
    for name, cases in (
        ("real", [case(number, *list(sides.items())[number % 2]) for number in range(60)]),
        ("samples", [case(100, "left", ""), case(101, "left", "photo"), case(103, "left", "scan")]),
    ):
        with create_set(tmp_path / f"{name}.h5", SetHeader("image", derive("make", {"name": name}), GREY)) as writer:
            for one in cases:
                writer.write(one)
    _, report = verified(tmp_path / "real.h5", tmp_path / "samples.h5", tmp_path, "--keep-going")
    asked = {one["case"]: [finding["differs"] for finding in one["findings"]] for one in report["cases"]}
    assert "modality" in asked["c-103"][0], report
    assert not asked["c-101"][0].get("modality")


def test_a_pipe_is_verified_as_a_file_is(
    real: Path, tmp_path: Path, medgen: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    samples = write(tmp_path / "samples.h5", kinds(6, 2), kinds(6, 4), 2, GENERATED)
    assert verified(real, samples, tmp_path)[0] == 0
    with open_set(samples) as reader, (tmp_path / "stream").open("wb") as file:
        writer = StreamWriter(file, reader.header)
        for case in reader:
            writer.write(case)
        writer.finish(reader.tail)
    words = ["select", "--verify", "--reference", real, *PROBE, "-o", tmp_path / "piped.h5"]
    done = medgen(*words, input=(tmp_path / "stream").read_bytes())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "piped.h5").read_bytes() == (tmp_path / "right.h5").read_bytes()


def test_what_the_probe_cannot_tell_is_not_judged_and_named(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [("left", "veil"), ("right", "veil"), ("left", "wart"), ("left", "")]
    shown = [("left", ""), ("left", ""), ("left", ""), ("left", "")]
    status, report = verified(real, write(tmp_path / "samples.h5", shown, told, 3, GENERATED), tmp_path)
    assert status == 0
    veil, other_side, wart, _ = (one["findings"][0] for one in report["cases"])
    for finding in (veil, other_side, wart):
        assert "finding" in finding["not_judged"]
        assert "finding" not in finding["differs"]
    assert veil["passes"]
    assert wart["passes"]
    assert not other_side["passes"]  # its side is judged nonetheless
    assert not report["checks"][0]["texts"]["finding"]["veil"]["judged"]
    assert report["not_judged"]["finding"] >= 3
    assert f"finding was not judged in {report['not_judged']['finding']} images" in capsys.readouterr().err


def test_a_reference_whose_texts_say_nothing_of_its_images_judges_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --keep-going, too: it is no fault of a case."""
    real = write(tmp_path / "real.h5", kinds(80, 1), kinds(80, 9), 1)
    samples = write(tmp_path / "samples.h5", kinds(4, 2), kinds(4, 2), 2, GENERATED)
    words = ["select", samples, "--verify", "--reference", real, *PROBE, "--keep-going", "-o", tmp_path / "out.h5"]
    assert run([str(word) for word in words]) == 65
    told = capsys.readouterr().err
    assert "--reference: the probe recognises side, finding of held-out real images too rarely" in told
    assert not (tmp_path / "out.h5").exists()


def test_texts_that_ask_nothing_the_probe_knows_are_left_out_by_name(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = SetHeader("image", derive("make", {}), GREY)
    random = np.random.default_rng(0)
    with create_set(tmp_path / "samples.h5", header) as writer:
        for number, text in enumerate((caption("left", ""), "a lovely picture")):
            writer.write(Case(f"case-{number}", {"image": picture(random, "left", "")}, text=(text,)))
    status, report = verified(real, tmp_path / "samples.h5", tmp_path, "--keep-going")
    assert status == 1
    assert report["left_out"] == ["case-1"]
    assert "case case-1: nothing that its text asks can be judged" in capsys.readouterr().err


@dataclass(frozen=True)
class Drawer:
    """A generator that shows the wrong side at first, and the right one under any other seed than its own."""

    options: GenerateOptions
    texts: tuple[str, ...]

    def cases(self, indices: Sequence[int], _: object) -> Iterator[Case]:
        for index in indices:
            side = "right" if self.options.seed == 0 else "left"
            image = picture(np.random.default_rng(index), side, "")
            yield Case(f"sample-{index}", {"image": image}, text=(self.texts[index],), synthetic=GENERATED)


def test_samples_are_drawn_anew_until_they_show_their_texts(real: Path) -> None:
    """A request that cannot be judged is given up at once, and the others go on."""
    left_out = []
    drawer: Any = Drawer(GenerateOptions(batch_size=4), (caption("left", "veil"), "a lovely picture"))
    requests: Any = None
    with open_set(real, random_access=True) as stored:
        probe, device = ProbeOptions(side=24, width=4, steps=80, batch_size=16), torch.device("cpu")
        verifier = Verifier(stored, stored.header, SegmenterOptions(), probe, Silent(), device)
        made = list(Redrawing(drawer, verifier, 3).cases(range(2), requests, lambda case, _: left_out.append(case.id)))
    assert [case.id for case in made] == ["sample-0"]
    assert left_out == ["sample-1"]
    assert [(one["case"], one["try"], one["passes"]) for one in verifier.told] == [
        ("sample-0", 1, False), ("sample-0", 2, True),
    ]  # fmt: skip
