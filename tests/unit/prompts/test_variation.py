"""Varied prompts: a pure function of seed and position, with the shares that were asked for."""

from __future__ import annotations

from collections import Counter

import pytest

from medgen.errors import ConfigError
from medgen.prompts.variation import PromptVariation, varied

TEXT = "History: fever of 38.5 C. Findings: large heart; small effusion. Impression: heart failure."
PARTS = ["History: fever of 38.5 C.", "Findings: large heart;", "small effusion.", "Impression: heart failure."]
SYNONYMS = {"heart failure": ("cardiac failure",), "heart": ("cor", "myocardium"), "Fever": ("pyrexia",)}


def shown(options: PromptVariation, count: int = 2000, seed: int = 0) -> list[str]:
    return [varied(TEXT, options, seed, position) for position in range(count)]


def test_nothing_changes_unless_asked() -> None:
    odd = "  two  spaces.\nand a line; "
    assert varied(odd, PromptVariation(synonyms={"line": ("row",)}), 0, 0) == odd
    assert set(shown(PromptVariation(), 20)) == {TEXT}


def test_a_draw_belongs_to_its_seed_and_position() -> None:
    options = PromptVariation(shuffle=0.5, drop=0.3, replace=0.5, synonyms=SYNONYMS)
    once = shown(options, 50)
    assert once == shown(options, 50)
    assert once != shown(options, 50, seed=1)
    assert varied(TEXT, options, 0, 33) == once[33]


def test_parts_come_in_every_order_equally_often() -> None:
    orders = Counter(shown(PromptVariation(shuffle=1.0), 4800))
    assert len(orders) == 24
    assert all(set(order.split(" ")) == set(TEXT.split(" ")) for order in orders)
    assert 130 < min(orders.values()) <= max(orders.values()) < 280  # 200 wanted, 5.6 standard deviations


def test_parts_are_dropped_as_often_as_asked_and_never_all() -> None:
    texts = shown(PromptVariation(drop=0.25))
    for part in PARTS:
        assert abs(sum(part not in text for text in texts) / len(texts) - 0.25) < 0.05
    assert set(shown(PromptVariation(drop=1.0), 100)) == set(PARTS)
    halves = shown(PromptVariation(drop=0.25), 50)  # the same parts stay, in whatever order
    both = shown(PromptVariation(drop=0.25, shuffle=1.0), 50)
    assert [sorted(text.split()) for text in halves] == [sorted(text.split()) for text in both]


def test_synonyms_replace_whole_terms_the_longest_first() -> None:
    always = PromptVariation(replace=1.0, synonyms=SYNONYMS)
    texts = set(shown(always, 200))
    assert {text.split("large ")[1].split(";")[0] for text in texts} == {"cor", "myocardium"}
    assert all("pyrexia of" in text and "cardiac failure." in text for text in texts)
    assert varied("hearts, heartless", always, 0, 0) == "hearts, heartless"
    half = shown(PromptVariation(replace=0.5, synonyms={"fever": ("pyrexia",)}))
    assert abs(sum("pyrexia" in text for text in half) / len(half) - 0.5) < 0.06


def test_options_that_could_do_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="no synonyms"):
        PromptVariation(replace=0.5)
    with pytest.raises(ConfigError, match="'x' has none"):
        PromptVariation(synonyms={"x": ()})
