"""What the page and its server do with odd sets, and when something goes wrong under them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.errors import DataError, StorageError
from medgen.feedback.rate_options import RateOptions
from medgen.feedback.server import RatingServer
from medgen.feedback.session import Session
from medgen.imaging.labels.ratings import RatingsFile, read_ratings


def ask(server: RatingServer, path: str, body: Any = None) -> tuple[int, str]:
    host = server.hosts[0]
    connection = http.client.HTTPConnection(host, timeout=20)
    headers = {"Cookie": server.cookie, "Origin": f"http://{host}"}
    connection.request("GET" if body is None else "POST", path, body and json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace")


@contextlib.contextmanager
def serving(path: Path, ratings: Path, **options: Any) -> Iterator[RatingServer]:
    """A server of the set at `path`, in a thread."""
    with (
        open_set(path, random_access=True) as stored,
        RatingsFile(ratings) as file,
        RatingServer(Session(stored, None, file, RateOptions(rater="anna", **options)), 0) as server,
    ):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_failure_ends_the_command_with_an_error_unless_it_was_mended(
    make_set: Callable[..., Path], tmp_path: Path
) -> None:
    path, ratings = make_set("samples.h5", count=6), tmp_path / "r.csv"
    rating = {"position": 0, "aspect": "overall", "value": 3}
    with serving(path, ratings) as server:
        ratings.rename(tmp_path / "away")
        status, told = ask(server, "/rate", rating)
        assert (status, "the rating was not written" in told) == (507, True)
        failures = [server.failure]
        (tmp_path / "away").rename(ratings)
        assert ask(server, "/rate", rating)[0] == 200
        failures.append(server.failure)
        os.truncate(path, path.stat().st_size // 2)
        for place in ("/item/5", "/pixels/5/0/0"):
            status, told = ask(server, place)
            assert (status, "was changed while it was read" in told) == (507, True)
        assert ask(server, "/rate", {**rating, "position": 1})[0] == 200
        failures.append(server.failure)  # what cannot be read does not become readable by that
    assert [type(one) for one in failures] == [StorageError, type(None), DataError]


def write_two_channels(path: Path, texts: Sequence[str]) -> Path:
    header = SetHeader("image", derive("generate", {}, sources="source-1"), intensity=Intensity())
    with create_set(path, header) as writer:
        for number, text in enumerate(texts):
            image = np.random.default_rng(number).integers(-1000, 400, (1, 2, 64, 64)).astype(np.int16)
            writer.write(Case(f"case{number}", {"image": image}, text=(text,), modality=("OCT",)))
    return path


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_long_request_hides_no_image_and_an_image_not_shown_is_not_rated(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path, ratings = write_two_channels(tmp_path / "s.h5", ["a nodule, " * 400, "none"]), tmp_path / "r.csv"
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.getuid() == 0 else [])
        page = browser.new_page(viewport={"width": 1000, "height": 700})
        with serving(path, ratings, pairs=True, comparisons=1) as server:
            page.goto(server.address)
            page.wait_for_selector("figure[data-drawn]")
            assert page.locator("figure").nth(1).bounding_box()["height"] < 700
            assert page.locator(".choices").bounding_box()["y"] < 650
            assert page.locator("#condition dt").all_inner_texts() == ["text, left", "text, right", "modality"]
            assert "channel 1 of 2" in page.locator("figcaption").first.inner_text()
        with serving(path, ratings) as server:
            page.route("**/pixels/*/*/*", lambda route: route.abort())
            page.goto(server.address)
            page.wait_for_selector("#message.bad")
            page.keyboard.press("3")
            page.unroute("**/pixels/*/*/*")
            page.reload()
            page.wait_for_selector("figure[data-drawn]")
            page.keyboard.press("u")
            page.locator("#message", has_text="There is nothing to take back.").wait_for()
            page.keyboard.press("4")
            page.wait_for_selector("figure[data-drawn='1']")
        browser.close()
    assert list(read_ratings(ratings).values.values()) == [4]
