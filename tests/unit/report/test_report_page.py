from __future__ import annotations

import re
from importlib import resources

import numpy as np
import pytest

from medgen.evaluation.section import Gallery, Panel
from medgen.report.evaluation_page import Chapter
from medgen.report.html import flattened, laid_out, render, shrink

STYLE = resources.files("medgen.report").joinpath("templates/page.css").read_text(encoding="utf-8")


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of #rrggbb or #rgb."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


THEMES = [dict(re.findall(r"--([\w-]+): (#\w+);", block)) for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)]


@pytest.mark.parametrize("theme", THEMES, ids=["light", "dark", "print"])
def test_text_and_lines_stand_out(theme: dict[str, str]) -> None:
    for text in ("ink", "soft", "link"):
        assert contrast(theme[text], theme["paper"]) >= 4.5
        assert contrast(theme[text], theme["panel"]) >= 4.5
    assert contrast(theme["caution"], theme["caution-paper"]) >= 4.5
    for series in (f"s{number}" for number in range(6)):
        assert contrast(theme[series], theme["paper"]) >= 3  # graphics


def test_small_images_are_enlarged_by_whole_numbers() -> None:
    shown = laid_out(Panel(np.zeros((48, 64), np.uint8), "a <b>\nc"))
    assert (shown.enlarged, shown.width, shown.height, shown.lines) == (True, "128", "96", ["a <b>", "c"])


def test_pages_escape_what_they_show() -> None:
    parts = [("gallery", Gallery("<i>", [[Panel(np.zeros((4, 4), np.uint8), "a <b>\nc")]]))]
    chapter = Chapter("one", "A & B", parts, ["<w>"])
    page = render("evaluation.html", title="<t>", lead="", glance=None, chapters=[chapter], version="0", id="x")
    assert 'alt="a &lt;b&gt;, c"' in page
    assert "a &lt;b&gt;<br>c" in page
    assert "<h2>A &amp; B</h2>" in page
    assert "<h1>&lt;t&gt;</h1>" in page
    assert "<li>&lt;w&gt;</li>" in page
    assert "<i>" not in page


def test_large_images_are_averaged_and_say_so() -> None:
    pixels = np.arange(1200 * 900, dtype=np.float64).reshape(1200, 900) % 251
    small, times = shrink(pixels.astype(np.uint8))
    assert (small.shape, times) == ((400, 300), 3)
    assert small[7, 9] == round(float(pixels[21:24, 27:30].mean()))
    assert laid_out(Panel(pixels.astype(np.uint8), "x")).lines == ["x", "1 of 3 pixels each way"]
    colour = np.zeros((600, 10, 3), np.uint8)
    assert shrink(colour)[0].shape == (300, 5, 3)
    assert shrink(small)[1] == 1


def test_settings_are_flat_and_plain() -> None:
    nested = {"a": {"b": True, "c": {}}, "d": [1, 2.5], "e": None, "f": ""}
    assert flattened(nested) == {"a.b": "yes", "d": "1, 2.5", "e": "none", "f": "none"}
