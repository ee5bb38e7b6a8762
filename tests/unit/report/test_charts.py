from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgen.evaluation.section import Distribution
from medgen.report.charts import (
    Plot,
    Span,
    _name_extent,
    described,
    edges_of,
    histogram,
    mark_lines,
    span_of,
    tick_texts,
    ticks,
)

SVG = "{http://www.w3.org/2000/svg}"
finite = st.floats(-1e6, 1e6, allow_nan=False)


def of(values: object, **marks: float) -> Distribution:
    return Distribution("d", "x (mm)", {"a": np.asarray(values, np.float64)}, marks)


def drawn(distribution: Distribution) -> ElementTree.Element:
    return ElementTree.fromstring(histogram(distribution))


@given(finite, st.floats(1e-3, 1e6), st.integers(3, 8))
def test_ticks_are_round_and_inside(low: float, width: float, count: int) -> None:
    found = ticks(low, low + width, count)
    steps = np.diff(found)
    assert all(low - 1e-6 * width <= tick <= low + width * (1 + 1e-6) for tick in found)
    assert 1 <= len(found) <= 2.5 * count + 1
    assert np.allclose(steps, steps[:1], rtol=1e-3)
    if len(found) > 1:
        step = found[1] - found[0]
        assert min(abs(step / 10 ** math.floor(math.log10(step) + 1e-9) - nice) for nice in (1, 2, 5)) < 1e-3


def test_ticks_have_equally_many_decimals() -> None:
    assert tick_texts([-0.5, 0.0, 0.5]) == ["−0.5", "0.0", "0.5"]
    assert tick_texts([0.0, 20.0]) == ["0", "20"]
    assert tick_texts([0.0, 2e6]) == ["0", "2e+06"]


def test_shares_are_those_of_the_values() -> None:
    values = np.random.default_rng(0).normal(0, 1, 500)
    distribution = of(values)
    edges = edges_of([distribution])
    expected = 100 * np.histogram(values, edges)[0] / 500
    path = drawn(distribution).find("path[@class='series s0']")
    assert path is not None
    heights = np.array([float(y) for y in re.findall(r"V([\d.]+)H", path.attrib["d"])])
    top = expected.max() * 1.06
    plot = Plot(Span(edges[0], edges[-1]), top, 10)
    assert np.allclose(heights, [plot.y(share) for share in expected], atol=0.06)


def test_axes_carry_the_unit_and_marks_their_names() -> None:
    texts = [node.text for node in drawn(of([1.0, 2.0, 4.0], floor=3.0)).iter() if node.tag == "text"]
    assert "x (mm)" in texts
    assert "share (%)" in texts
    assert "floor" in texts


def test_names_from_outside_are_escaped() -> None:
    hostile = Distribution("<b>", "<i>", {"<script>": np.array([1.0, 2.0])}, {'"&<u>': 1.5})
    assert not re.search(r"<(b|i|u|script)>", histogram(hostile))


@pytest.mark.parametrize("values", [[], [math.nan, math.inf], [3.0], [0.0, 0.0], [1e300, -1e300], [1e-12, 2e-12]])
def test_nothing_and_oddities_are_drawn_too(values: list[float]) -> None:
    drawn(of(values))


def test_a_far_tail_is_cut_and_told() -> None:
    values = np.append(np.linspace(0, 1, 999), 1e6)
    distribution = of(values)
    edges = edges_of([distribution])
    assert edges[-1] < 2
    assert "1 beyond the axis (all: 0 to 1e+06)" in described(values, edges)
    assert span_of([of(values, truth=50.0)]).high == 50.0  # a mark is never cut off


def test_whole_numbers_get_a_bin_each() -> None:
    assert edges_of([of([0, 1, 1, 3])]).tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]


@given(st.dictionaries(st.text("abcdefgh ", min_size=1, max_size=30), st.floats(0, 1), max_size=8))
def test_names_of_marks_never_cover_each_other(marks: dict[str, float]) -> None:
    span = Span(0.0, 1.0)
    lines = mark_lines(marks, span)
    extents = {name: _name_extent(name, Plot(span, 1, 0).x(place)) for name, place in marks.items()}
    for one, (left, right) in extents.items():
        for other, (start, stop) in extents.items():
            if one != other and lines[one] == lines[other]:
                assert right < start or stop < left
