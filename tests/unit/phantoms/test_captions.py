"""Sentences from truth."""

from __future__ import annotations

import pytest

from medgen.phantoms.captions import FIELDS, Caption, size_word


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        (Caption("fundus", "eye", "left"), "fundus of the left eye without findings"),
        (Caption("fundus", "eye", "right", "exudate", "small", 3), "fundus of the right eye with three small exudates"),
        (Caption("endoscopy", "colon", "", "polyp", "large", 1), "endoscopy of the colon with one large polyp"),
        (Caption("oct", "macula", "left", "druse", "medium", 12), "oct of the left macula with 12 medium drusen"),
        (Caption("fundus", "eye", finding="haze"), "fundus of the eye with haze"),
    ],
)
def test_a_caption_says_every_word_of_its_truth(caption: Caption, text: str) -> None:
    assert caption.text == text
    assert Caption.read(text) == Caption.read(f" {text.upper()}. ") == caption
    assert dict(zip(FIELDS, caption.row, strict=True)) == {name: getattr(caption, name) for name in FIELDS}


@pytest.mark.parametrize("text", ["", "a cat", "polyp in the colon", "normal chest x-ray, no effusion"])
def test_a_text_of_another_form_is_no_caption(text: str) -> None:
    assert Caption.read(text) is None


def test_sizes_are_words_by_their_limits() -> None:
    assert [size_word([size], (5.0, 10.0)) for size in (4.9, 5.0, 9.9, 10.0)] == ["small", "medium", "medium", "large"]
    assert size_word([5.0, 9.0], (5.0, 10.0)) == "medium"
    assert size_word([4.0, 9.0], (5.0, 10.0)) == ""  # no word is true of both
