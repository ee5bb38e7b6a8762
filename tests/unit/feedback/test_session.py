"""Every image once, blinded, in an order of the rater's own, and on from where she stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import GENERATED, Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.errors import DataError, UsageError
from medgen.feedback.queue import make_queue
from medgen.feedback.rate_options import RateOptions
from medgen.feedback.session import Session
from medgen.imaging.labels.ratings import REAL, RatingsFile, read_ratings


def options(**changes: object) -> RateOptions:
    return RateOptions(**{"rater": "anna", **changes})  # type: ignore[arg-type]


@given(st.integers(1, 60), st.integers(0, 60), st.sampled_from([0.1, 0.25, 0.5]))
def test_each_case_is_shown_once_and_real_ones_have_their_share(cases: int, real: int, share: float) -> None:
    items = make_queue(cases, real, options(real_share=share))
    assert sorted(item.case for item in items if not item.real) == list(range(cases))
    shown = [item.case for item in items if item.real]
    assert len(shown) == len(set(shown)) == min(real, round(cases * share / (1 - share)))


@given(st.integers(2, 60), st.integers(1, 6))
def test_no_pair_is_shown_twice_and_none_with_itself(cases: int, comparisons: int) -> None:
    items = make_queue(cases, 0, options(pairs=True, comparisons=comparisons))
    pairs = [frozenset((item.case, item.other)) for item in items]
    assert len(pairs) == len(set(pairs))
    assert all(len(pair) == 2 for pair in pairs)
    assert max(Counter(case for pair in pairs for case in pair).values()) <= comparisons


def test_raters_have_orders_of_their_own_and_keep_them() -> None:
    orders = [[item.case for item in make_queue(30, 0, options(rater=name))] for name in ("anna", "anna", "otto")]
    assert orders[0] == orders[1] != orders[2]


@pytest.fixture
def ours(make_set: Callable[..., Path]) -> Path:
    return make_set("ours.h5", count=6)


def test_it_goes_on_where_the_rater_stopped(ours: Path, tmp_path: Path) -> None:
    told = options(aspects=("realism", "anatomy"))
    with open_set(ours, random_access=True) as stored:
        with RatingsFile(tmp_path / "r.csv") as file:
            session = Session(stored, None, file, told)
            assert session.progress() == {"done": 0, "position": 0}
            assert session.rate(0, "realism", 4) == {"done": 0, "position": 0}
            assert session.rate(0, "anatomy", 2) == {"done": 1, "position": 1}
            session.rate(1, "realism", 5)
        with RatingsFile(tmp_path / "r.csv") as file:
            again = Session(stored, None, file, told)
            assert again.progress() == {"done": 1, "position": 1}
            assert again.item(1)["given"] == {"realism": 5}
            assert again.undo() == {"done": 1, "position": 1, "undone": True}
            assert again.undo() == {"done": 0, "position": 0, "undone": True}
            assert again.undo() == {"done": 0, "position": 0, "undone": False}
            other = Session(stored, None, file, options(rater="otto"))
            assert other.progress()["done"] == 0
    assert read_ratings(tmp_path / "r.csv").values == {}


def test_a_pair_keeps_who_was_left(ours: Path, tmp_path: Path) -> None:
    with open_set(ours, random_access=True) as stored, RatingsFile(tmp_path / "r.csv") as file:
        session = Session(stored, None, file, options(pairs=True))
        for position, item in enumerate(session.items):
            session.rate(position, "overall", 1)  # the left one is better
            assert session.given(position) == {"overall": 1}
            better = stored.cases[item.case].id
            (*_, (key, value)) = read_ratings(tmp_path / "r.csv").values.items()
            assert (key[2] if value == 1 else key[3]) == better


def test_nothing_shown_tells_which_image_is_real(ours: Path, make_set: Callable[..., Path], tmp_path: Path) -> None:
    real = make_set("real.h5", count=6, seed=7)
    with (
        open_set(ours, random_access=True) as a,
        open_set(real, random_access=True) as b,
        RatingsFile(tmp_path / "r") as file,
    ):
        session = Session(a, b, file, options(real_share=0.5))
        shown = [{**session.item(number), "position": 0} for number in range(len(session.items))]
        assert len({str(one) for one in shown}) == 1
        assert session.aspects == (REAL, "overall")
        truth = [item.real for item in session.items]
        assert sum(truth) == 6
        for number, item in enumerate(session.items):
            source = b if item.real else a
            np.testing.assert_array_equal(session.pixels(number, 0, 1), source.case(item.case)["image"][1])
            session.rate(number, REAL, float(item.real))
        keys = read_ratings(tmp_path / "r").values
        assert {key[0] for key, value in keys.items() if value} == {b.tail.digest[:16]}


def test_real_images_are_real_and_others_than_those_to_rate(ours: Path, tmp_path: Path) -> None:
    """Else one case would be rated as both, and the last answer replace the other."""
    made = tmp_path / "made.h5"
    with open_set(ours, random_access=True) as a, create_set(made, a.header) as writer:
        for number, case in enumerate(a):
            writer.write(replace(case, synthetic=GENERATED if number < 2 else ""))
    for path, told in ((ours, "holds the same images as the set to rate"), (made, "2 of its 6 cases are synthetic")):
        sets = open_set(ours, random_access=True), open_set(path, random_access=True)
        with sets[0] as a, sets[1] as b, RatingsFile(tmp_path / "r") as file, pytest.raises(DataError, match=told):
            Session(a, b, file, options())


def test_the_request_is_told_when_it_was_said_whether_an_image_is_real(
    ours: Path, make_set: Callable[..., Path], tmp_path: Path
) -> None:
    """Else nobody could rate how far the image agrees with it; before, it might tell what is real."""
    real, bare = make_set("real.h5", count=6, seed=7), make_set("bare.h5", count=6, seed=8, fields=0)
    for other, told in ((real, ["field0", "field1"]), (bare, [])):
        sets = open_set(ours, random_access=True), open_set(other, random_access=True)
        with sets[0] as a, sets[1] as b, RatingsFile(tmp_path / other.stem) as file:
            session = Session(a, b, file, options(real_share=0.5))
            for position in range(len(session.items)):
                before = session.item(position)["sides"][0]
                assert (before["condition"], before["masks"]) == ([], None)
                session.rate(position, REAL, 1)
                after = session.item(position)["sides"][0]
                assert [name for name, _ in after["condition"]] == told
                assert after["masks"] is not None
            assert session.undo()["position"] == len(session.items) - 1
            assert session.item(len(session.items) - 1)["sides"][0]["condition"] == []


def test_the_number_of_slices_does_not_tell_what_is_real(
    ours: Path, make_set: Callable[..., Path], tmp_path: Path
) -> None:
    deeper, flat = make_set("deeper.h5", count=6, depth=9, seed=7), make_set("flat.h5", count=6, depth=1, seed=8)
    sets = [open_set(path, random_access=True) for path in (ours, deeper, flat)]
    with sets[0] as a, sets[1] as b, sets[2] as c, RatingsFile(tmp_path / "r.csv") as file:
        session = Session(a, b, file, options(real_share=0.5))
        starts = set()
        for position, item in enumerate(session.items):
            assert session.item(position)["sides"][0]["slices"] == 2
            if item.real:
                whole = b.case(item.case)["image"]
                shown = [session.pixels(position, 0, number) for number in (0, 1)]
                places = [number for number in range(8) if np.array_equal(whole[number : number + 2], shown)]
                starts.update(places)
                assert len(places) == 1
                with pytest.raises(UsageError):
                    session.pixels(position, 0, 2)
        assert len(starts) > 1
        with pytest.raises(DataError, match="fewer slices"):
            Session(a, c, file, options())


def test_what_is_told_was_asked_of_the_slice_that_the_page_opens_with(tmp_path: Path) -> None:
    """Slices of a volume show different things; of real ones only a part may be shown."""
    for name, depth in (("ours", 3), ("real", 9)):
        with create_set(
            tmp_path / name, SetHeader("image", derive("make", {"name": name}), Intensity(), ("x",))
        ) as out:
            for number in range(8):
                order = np.arange(depth)
                values = np.broadcast_to(order[:, None, None, None], (depth, 1, 4, 4)).astype(np.int16)
                arrays = {"image": values, "vector": order[:, None].astype(np.float32)}
                texts = tuple(f"at {one}" for one in order)
                synthetic = GENERATED if name == "ours" else ""
                out.write(Case(f"{name}-{number}", arrays, text=texts, synthetic=synthetic))
    with (
        open_set(tmp_path / "ours", random_access=True) as a,
        open_set(tmp_path / "real", random_access=True) as b,
        RatingsFile(tmp_path / "r") as file,
    ):
        session = Session(a, b, file, options(real_share=0.5))
        opened = set()
        for position, item in enumerate(session.items):
            session.rate(position, REAL, 1)
            [side] = session.item(position)["sides"]
            [[seen]] = np.unique(session.pixels(position, 0, side["slices"] // 2))[None]
            assert side["condition"] == [("text", f"at {seen}"), ("x", f"{seen:.2f}")]
            opened.add((item.real, int(seen)))
    assert (False, 1) in opened
    assert len({seen for real, seen in opened if real}) > 1


def test_undo_keeps_to_the_aspects_that_are_asked(ours: Path, tmp_path: Path) -> None:
    with open_set(ours, random_access=True) as stored, RatingsFile(tmp_path / "r.csv") as file:
        Session(stored, None, file, options(aspects=("realism",))).rate(3, "realism", 4)
    with open_set(ours, random_access=True) as stored, RatingsFile(tmp_path / "r.csv") as file:
        session = Session(stored, None, file, options(aspects=("anatomy",)))
        session.rate(0, "anatomy", 2)
        assert session.undo()["position"] == 0
        assert session.undo() == {"done": 0, "position": 0, "undone": False}
    assert list(read_ratings(tmp_path / "r.csv").values.values()) == [4]


def test_a_rating_says_when_it_was_given(ours: Path, tmp_path: Path) -> None:
    with open_set(ours, random_access=True) as stored, RatingsFile(tmp_path / "r.csv") as file:
        before = datetime.now(UTC).replace(microsecond=0)
        Session(stored, None, file, options()).rate(0, "overall", 4)
    told = datetime.fromisoformat((tmp_path / "r.csv").read_text().splitlines()[1].rpartition(",")[2])
    assert before <= told <= datetime.now(UTC)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.bool_])
def test_pixels_of_a_type_that_browsers_lack_are_sent_as_floats(tmp_path: Path, dtype: type) -> None:
    with create_set(tmp_path / "odd.h5", SetHeader("image", derive("x", {}, sources="s"))) as writer:
        writer.write(Case("a", {"image": np.ones((1, 1, 16, 16), dtype)}))
        unknown = np.nan if dtype is np.float16 else 0
        writer.write(Case("b", {"image": np.full((1, 1, 16, 16), unknown, dtype)}))
    with open_set(tmp_path / "odd.h5", random_access=True) as stored, RatingsFile(tmp_path / "r.csv") as file:
        session = Session(stored, None, file, options())
        for position in range(2):
            facts = session.item(position)["sides"][0]
            assert facts["type"] == session.pixels(position, 0, 0).dtype.name == "float32"
            low, high = facts["window"]
            assert np.isfinite([low, high]).all()
            assert low < high


def test_sets_that_look_different_are_refused(ours: Path, make_set: Callable[..., Path], tmp_path: Path) -> None:
    larger = make_set("larger.h5", size=24)
    sets = open_set(ours, random_access=True), open_set(larger, random_access=True)
    with sets[0] as a, sets[1] as b, RatingsFile(tmp_path / "r.csv") as file:
        with pytest.raises(DataError, match="anyone can tell which is real"):
            Session(a, b, file, options())
        assert file.ratings.values == {}


@pytest.mark.parametrize(
    ("position", "aspect", "value"), [(0, "beauty", 3), (99, "overall", 3), (0, "overall", 0), (0, "overall", 3.5)]
)
def test_what_cannot_be_said_is_refused(ours: Path, tmp_path: Path, position: int, aspect: str, value: float) -> None:
    with open_set(ours, random_access=True) as stored, RatingsFile(tmp_path / "r.csv") as file:
        session = Session(stored, None, file, options())
        with pytest.raises(UsageError):
            session.rate(position, aspect, value)
    assert read_ratings(tmp_path / "r.csv").values == {}


def test_a_rater_has_a_name_of_one_line() -> None:
    assert options(rater="Dr. Ö. O'Hara").rater
    with pytest.raises(UsageError, match="--rater"):
        options(rater="two\nlines")


@pytest.mark.parametrize("aspects", [(), ("a", "a"), (REAL,)])
def test_aspects_are_named_once_and_real_is_not_theirs(aspects: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="--aspects"):
        options(aspects=aspects)


@pytest.mark.parametrize("name", [" anna", "anna ", "  ", "two\nlines", "an\u200bna"])
def test_names_of_raters_that_look_alike_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--rater: a name is"):
        options(rater=name)
