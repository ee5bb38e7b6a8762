"""Agreement of images with texts: what texts ask, what chance gives, and a probe that finds true texts out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import GENERATED, Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.artifacts.stored import StoredSet
from medgen.evaluation.agreement import probe
from medgen.evaluation.agreement.attributes import Attribute, Texts, attributes_of
from medgen.evaluation.agreement.by_probe import JOINT
from medgen.evaluation.agreement.declaration import AgreementOptions
from medgen.evaluation.agreement.metric import measure
from medgen.evaluation.agreement.probe import read_images
from medgen.evaluation.agreement.scores import Answers, agreement
from medgen.evaluation.features.features import Extractor, FeatureBank
from medgen.evaluation.inputs import Inputs
from medgen.evaluation.section import Section
from medgen.phantoms.captions import Caption
from medgen.reporting import Silent

SIDE = 24
OPTIONS = AgreementOptions(side=24, width=4, steps=120, batch_size=16)
BANK = FeatureBank(Extractor("none", "", lambda images: images))
FINDINGS = ("blob", "bar", "")


def picture(random: np.random.Generator, side: str, finding: str) -> np.ndarray:
    """A blob or a bar on the left or right of noise; the frame is bright on the side, so that it shows without any."""
    image = 60 + 10 * random.standard_normal((1, 1, SIDE, SIDE))
    half = slice(0, SIDE // 2) if side == "left" else slice(SIDE // 2, SIDE)
    image[..., half] += 40
    row, column = random.integers(4, SIDE - 10), half.start + random.integers(2, 5)
    if finding:
        height, width = (6, 6) if finding == "blob" else (2, 9)
        image[..., row : row + height, column : column + width] += 90
    return np.clip(image, 0, 255).astype(np.uint8)


def words(side: str, finding: str) -> str:
    return Caption("x-ray", "lung", side, finding, number=1 if finding else 0).text


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Write a set of images that show kinds (side, finding), with the texts of these or other ones."""

    def make(
        name: str,
        shown: Sequence[tuple[str, str]],
        told: Sequence[str] | None = None,
        synthetic: str = "",
        seed: int = 0,
    ) -> Path:
        random = np.random.default_rng(seed)
        texts = [words(*kind) for kind in shown] if told is None else told
        header = SetHeader("image", derive("make", {"name": name}), Intensity(1.0, 0.0, "grey value", (0.0, 255.0)))
        with create_set(tmp_path / name, header) as writer:
            for number, (kind, text) in enumerate(zip(shown, texts, strict=True)):
                case = Case(f"{number:03d}", {"image": picture(random, *kind)}, synthetic=synthetic)
                case = Case(**{**vars(case), "text": (text,), "modality": ("x-ray",)})
                writer.write(case)
        return tmp_path / name

    return make


def kinds(count: int, seed: int, without: tuple[str, str] | None = None) -> list[tuple[str, str]]:
    random = np.random.default_rng(seed)
    every = [(side, finding) for side in ("left", "right") for finding in FINDINGS if (side, finding) != without]
    return [every[int(place)] for place in random.integers(len(every), size=count)]


def measured(samples: Path, real: Path, training: Path | None = None, steps: int = OPTIONS.steps) -> Section:
    def opened(path: Path | None) -> StoredSet | None:
        return None if path is None else stack.enter_context(open_set(path, random_access=True))

    with contextlib.ExitStack() as stack:
        stored = opened(samples)
        assert stored is not None
        return measure(
            Inputs(stored, BANK, Silent().progress, reference=opened(real), training=opened(training)),
            replace(OPTIONS, steps=steps),
        )


def share(section: Section, name: str, part: str = "samples") -> dict[str, Any]:
    found: dict[str, Any] = section.result["attributes"][name][part]
    return found


def test_the_probe_tells_true_texts_from_shuffled_ones(make: Callable[..., Path]) -> None:
    real, shown = make("real.h5", kinds(160, 1), seed=1), kinds(60, 2)
    true = measured(make("true.h5", shown, synthetic=GENERATED, seed=2), real)
    texts = [words(*kind) for kind in shown]
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = measured(make("shuffled.h5", shown, [texts[place] for place in order], GENERATED, seed=2), real)
    for name in ("side", "finding", JOINT):
        assert share(true, name)["value"] > 0.85
        assert share(true, name, "held_out_real")["low"] > share(true, name, "held_out_real")["majority"]
        chance = share(shuffled, name)
        assert chance["low"] < chance["shuffled"] < chance["high"]
    assert true.result["unseen"] is None
    assert not true.warnings
    assert set(true.scores) == {"side", "finding", JOINT}
    assert true.tables[0].rows[-1][0] == JOINT


def test_combinations_that_were_never_trained_on_are_measured_apart(make: Callable[..., Path]) -> None:
    new = ("left", "bar")
    real, training = make("real.h5", kinds(160, 1), seed=1), make("training.h5", kinds(80, 3, without=new), seed=3)
    shown = [*kinds(40, 4, without=new), *[new] * 12]
    found = measured(make("samples.h5", shown, synthetic=GENERATED, seed=4), real, training).result["unseen"]
    assert found["not_in"] == "training"
    assert found["combinations"] == ["left, bar"]
    assert found["attributes"][JOINT]["samples"]["images"] == 12
    assert found["attributes"][JOINT]["samples"]["value"] > 0.7
    lacking = make("lacking.h5", kinds(160, 1, without=new), seed=1)
    assert (
        measured(make("again.h5", shown, synthetic=GENERATED, seed=4), lacking).result["unseen"]["not_in"]
        == "reference"
    )


def test_too_few_real_cases_teach_nothing(make: Callable[..., Path]) -> None:
    section = measured(make("a.h5", kinds(5, 0), synthetic=GENERATED), make("b.h5", kinds(10, 1)))
    assert section.result["attributes"] == {}
    assert "no probe was trained" in section.warnings[0]


def test_questions_that_the_probe_cannot_answer_are_named_in_one_warning(make: Callable[..., Path]) -> None:
    shown = kinds(40, 1)
    random = np.random.default_rng(0).permutation(40)
    real = make("unrelated.h5", shown, [words(*shown[place]) for place in random], seed=1)
    (warning,) = measured(make("any.h5", kinds(10, 2), synthetic=GENERATED), real, steps=10).warnings
    assert warning.startswith("side, finding, number: on held-out real images")


def test_chance_is_what_shuffling_and_the_commonest_answer_give() -> None:
    random = np.random.default_rng(0)
    said, seen = random.integers(3, size=(2, 200, 2)) // [1, 2]
    said[:20, 1] = -1  # these say nothing of the second question
    found = agreement(Answers(said, seen, np.arange(200)), (0, 1))
    assert found is not None
    assert found["images"] == 180
    kept, other = said[20:], seen[20:]
    assert found["value"] == (kept == other).all(1).mean()
    shuffled = [(kept[random.permutation(180)] == other).all(1).mean() for _ in range(2000)]
    assert found["shuffled"] == pytest.approx(np.mean(shuffled), abs=4 * np.std(shuffled) / 2000**0.5)
    assert found["majority"] == max(np.unique(kept, axis=0, return_counts=True)[1]) / 180
    assert agreement(Answers(said[:20], seen[:20], np.arange(20)), (1,)) is None


def texts(*said: str, modality: str = "") -> Texts:
    return Texts(said, [modality] * len(said), np.arange(len(said)))


def named(attributes: list[Attribute]) -> dict[str, Attribute]:
    return {one.name: one for one in attributes}


def test_captions_are_asked_by_their_fields() -> None:
    left, right, healthy = words("left", "blob"), words("right", "bar"), "x-ray of the chest without findings"
    found = named(
        attributes_of(texts(*[left, right, healthy] * 6), texts(left, "x-ray of the left lung with one wart", ""))
    )
    assert {name: one.answers for name, one in found.items()} == {
        "organ": ("chest", "lung"), "side": ("left", "none", "right"), "finding": ("bar", "blob", "none"),
        "number": ("1", "none"),
    }  # fmt: skip
    assert found["finding"].asked.tolist() == [1, -1, -1]  # nobody knows warts, and an empty text asks nothing
    assert found["finding"].strange == 1
    assert found["side"].asked.tolist() == [0, 0, -1]


def test_a_modality_is_one_in_all_its_spellings() -> None:
    real = Texts(["a"] * 12, ["Fundus", " fundus", "OCT", "oct"] * 3, np.arange(12))
    asked = Texts(["a"] * 3, ["FUNDUS", "Oct", "CT"], np.arange(3))
    modality = named(attributes_of(real, asked))["modality"]
    assert [modality.answers[number].strip().lower() for number in modality.asked[:2]] == ["fundus", "oct"]
    assert (len(modality.answers), modality.asked[2], modality.strange) == (2, -1, 1)
    assert modality.real.tolist() == [modality.asked[0]] * 2 + [modality.asked[1]] * 2 + modality.real[4:].tolist()


def test_answers_that_few_cases_show_are_not_learned() -> None:
    left, rare = words("left", "blob"), words("right", "bar")
    assert "side" not in named(attributes_of(texts(*[left] * 9, *[rare] * 4), texts(left)))
    assert "side" in named(attributes_of(texts(*[left] * 9, *[rare] * 5), texts(left)))


def test_other_texts_are_asked_for_their_frequent_words() -> None:
    real = ["Small effusion on the left.", "no effusion; heart normal", "pneumonia, left", "normal lungs"] * 6
    found = named(attributes_of(texts(*real), texts("left effusion", "lungs are clear")))
    assert {"'effusion'", "'left'", "'normal'", "'pneumonia'"} <= set(found)
    assert "'on'" not in found  # too short to mean much
    assert found["'effusion'"].answers == ("no", "yes")
    assert found["'effusion'"].asked.tolist() == [1, 0]
    assert found["'effusion'"].real.tolist() == [1, 1, 0, 0] * 6


def test_of_very_many_images_some_evenly_spread_are_looked_at(
    make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("many.h5", kinds(21, 0))
    with open_set(path, random_access=True) as stored:
        assert read_images(stored, SIDE).slices.tolist() == list(range(21))
        monkeypatch.setattr(probe, "MOST", 5)
        shown = read_images(stored, SIDE)
    assert shown.slices.tolist() == [0, 5, 10, 15, 20]
    assert len(shown.images) == 5
