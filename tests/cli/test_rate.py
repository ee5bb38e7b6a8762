"""`medgen rate` as its user and her browser meet it: who is let in, what is kept, what a kill leaves."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgen.artifacts.sets import open_set
from medgen.imaging.labels.ratings import read_ratings

Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start(make_set: Callable[..., Path], tmp_path: Path) -> Iterator[Start]:
    """Start the command on a set of 12 cases; the process, and the address that it printed."""
    make_set("samples.h5", count=12)
    make_set("real.h5", count=12, seed=7)
    running: list[subprocess.Popen[str]] = []

    def run(*more: object) -> tuple[subprocess.Popen[str], str]:
        command = [
            sys.executable,
            "-m",
            "medgen.cli.app",
            "rate",
            "samples.h5",
            "--ratings",
            "r.csv",
            "--rater",
            "anna",
        ]
        words = [*command, "--port", "0", *map(str, more)]
        process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stderr is not None
        for line in process.stderr:
            found = re.search(r"open (http://\S+)", line)
            if found:
                return process, found[1]
        raise AssertionError("no address was printed")

    yield run
    for process in running:
        process.kill()
        process.wait()


class Browser:
    """Requests as a browser sends them."""

    def __init__(self, address: str) -> None:
        self.host, _, self.query = address.removeprefix("http://").partition("/")
        self.cookie = ""

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=20)
        sent = {"Cookie": self.cookie, "Origin": f"http://{self.host}", **headers}
        data = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, data, {k: v for k, v in sent.items() if v})
        answer = connection.getresponse()
        self.cookie = (answer.headers.get("Set-Cookie") or self.cookie).partition(";")[0]
        assert "default-src 'none'" in (answer.headers.get("Content-Security-Policy") or "")
        return answer.status, answer.read()

    def enter(self) -> int:
        return self.ask(f"/{self.query}")[0]


def test_ratings_are_on_disk_when_they_are_answered(start: Start, tmp_path: Path) -> None:
    process, address = start()
    browser = Browser(address)
    assert browser.enter() == 303
    for position in range(3):
        status, told = browser.ask("/rate", {"position": position, "aspect": "overall", "value": position + 1})
        assert (status, json.loads(told)) == (200, {"done": position + 1, "position": position + 1})
        assert sorted(read_ratings(tmp_path / "r.csv").values.values()) == list(range(1, position + 2))
    status, pixels = browser.ask("/pixels/0/0/1")
    with open_set(tmp_path / "samples.h5", random_access=True) as stored:
        shown = np.frombuffer(pixels, "<i2").reshape(stored.arrays()["image"][0])
        assert any(np.array_equal(case["image"][1], shown) for case in stored)
    process.kill()  # what a crash does
    process.wait()
    with (tmp_path / "r.csv").open("ab") as file:
        file.write(b"f00d,an")
    process, address = start()
    browser = Browser(address)
    browser.enter()
    assert json.loads(browser.ask("/start")[1])["done"] == 3
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    assert process.stderr is not None
    assert "3 of 12 rated by anna" in process.stderr.read()


def test_only_the_first_who_brings_the_token_is_let_in(start: Start, tmp_path: Path) -> None:
    _, address = start()
    browser, stranger = Browser(address), Browser(address)
    rating = {"position": 0, "aspect": "overall", "value": 3}
    for path in ("/", "/start", "/item/0", "/pixels/0/0/0", "/rate.js", "/?token=guessed"):
        assert stranger.ask(path)[0] == 403, path
    assert stranger.ask(f"/{stranger.query}", **{"Sec-Purpose": "prefetch;prerender"})[0] == 503
    assert browser.enter() == 303
    assert stranger.enter() == 403
    assert browser.ask("/")[0] == 200
    assert browser.enter() == 303  # opened once more by the same browser
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": ""},
        {"Host": "evil.example"},
        {"Cookie": browser.cookie.partition("=")[0] + "=no"},
    ):
        assert browser.ask("/rate", rating, **headers)[0] == 403, headers
    assert browser.ask("/", Host="evil.example:80")[0] == 403
    for body in ({}, {**rating, "value": 9}, {**rating, "position": 99}, {**rating, "more": 1}, [], {"value": "x"}):
        assert browser.ask("/rate", body)[0] == 400, body
    for path in ("/pixels/0/1/0", "/pixels/0/0/99", "/item/x", "/item/" + "9" * 5000):
        assert browser.ask(path)[0] == 400, path
    assert browser.ask("/../etc/passwd")[0] == 404
    assert read_ratings(tmp_path / "r.csv").values == {}
    assert browser.ask("/rate", rating)[0] == 200


def test_an_answer_does_not_wait_for_the_network(start: Start) -> None:
    """The head and the content of an answer are two packets, of which the second must not wait for the first's receipt,
    which comes 40 ms later."""
    _, address = start()
    browser = Browser(address)
    browser.enter()
    connection = http.client.HTTPConnection(browser.host, timeout=20)
    waited = []
    for _ in range(20):
        begin = time.perf_counter()
        connection.request("GET", "/start", headers={"Cookie": browser.cookie})
        assert connection.getresponse().read()
        waited.append(time.perf_counter() - begin)
    assert sorted(waited)[10] < 0.03


def test_two_pages_in_one_browser_and_a_broken_connection(start: Start, tmp_path: Path) -> None:
    process, address = start()
    first, second = Browser(address), Browser(start("--rater", "otto")[1])
    first.enter()
    second.enter()
    assert first.cookie.partition("=")[0] != second.cookie.partition("=")[0]  # browsers tell them apart by that alone
    first.cookie = second.cookie = f"{first.cookie}; {second.cookie}"
    assert first.ask("/start")[0] == second.ask("/start")[0] == 200
    name, _, port = first.host.partition(":")
    broken = socket.create_connection((name, int(port)))
    broken.sendall(f"GET /start HTTP/1.1\r\nHost: {first.host}\r\n\r\n".encode())
    broken.recv(10)
    broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    broken.close()  # with a reset, which the server meets when it reads on
    assert first.ask("/start")[0] == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


def test_a_port_in_use_is_69_and_wrong_calls_are_told(start: Start, medgen: Any, tmp_path: Path) -> None:
    _, address = start()
    port = address.rpartition(":")[2].partition("/")[0]
    rate = ["rate", tmp_path / "samples.h5", "--ratings", tmp_path / "r.csv", "--rater", "otto"]
    for words, status, told in (
        ([*rate, "--port", port], 69, f"port {port} is in use"),
        (rate[:-2], 2, "--rater NAME"),
        ([*rate[:2], "--rater", "otto"], 2, "--ratings FILE.csv"),
        ([*rate, "--real", tmp_path / "samples.h5", "--pairs"], 2, "leave one of them out"),
        ([*rate, "--aspects", "real"], 2, "asked by --real"),
    ):
        done = medgen(*words)
        assert (done.returncode, told in done.stderr.decode()) == (status, True), done.stderr


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


TYPED_ONCE_DRAWN = """({number, keys}) => new MutationObserver((changes, observer) => {
    if (!document.querySelector(`figure[data-drawn="${number}"]`)) return;
    observer.disconnect();
    for (const key of keys) document.dispatchEvent(new KeyboardEvent("keydown", {key}));
}).observe(document.body, {attributes: true, childList: true, subtree: true})"""
"""Keys typed the moment an image is on the page, as fast as no hand can."""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_in_a_browser_ten_ratings_survive_a_kill(start: Start, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    process, address = start()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.getuid() == 0 else [])
        page = browser.new_page(viewport={"width": 1000, "height": 700})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        for number in range(10):
            page.wait_for_selector(f'figure[data-drawn="{number}"]')
            page.keyboard.press(str(number % 5 + 1))
        page.wait_for_selector('figure[data-drawn="10"]')
        assert page.inner_text("#count") == "10 of 12"
        process.kill()
        process.wait()
        assert sorted(read_ratings(tmp_path / "r.csv").values.values()) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        page.keyboard.press("1")
        page.wait_for_selector("#message.bad")
        assert "nothing rated is lost" in page.inner_text("#message")
        process, address = start()
        page.goto(address)
        page.wait_for_selector('figure[data-drawn="10"]')
        page.keyboard.press("u")
        page.wait_for_selector('figure[data-drawn="9"]')
        assert page.inner_text("#count") == "9 of 12"
        page.mouse.move(300, 300)
        before = page.inner_text("figcaption")
        page.mouse.wheel(0, 100)
        page.wait_for_timeout(300)
        assert page.inner_text("figcaption").startswith("slice 2 of 2")
        page.mouse.down()
        page.mouse.move(400, 300)
        page.mouse.up()
        page.wait_for_timeout(300)
        assert page.inner_text("figcaption").partition("width")[2] != before.partition("width")[2]
        for key in ("3", "3", "3"):
            page.keyboard.press(key)
            page.wait_for_timeout(200)
        page.wait_for_selector(".finished")
        page.goto(start("--rater", "otto", "--aspects", "realism,anatomy,agreement", "--real", "real.h5")[1])
        page.wait_for_selector('figure[data-drawn="0"]')
        assert page.inner_text("#condition") == ""
        page.evaluate(TYPED_ONCE_DRAWN, {"number": "1", "keys": "s111"})
        page.keyboard.type("r435")  # faster than one answer is written
        page.wait_for_selector('figure[data-drawn="2"]')
        page.keyboard.press("s")
        page.wait_for_selector("#condition dt")
        said = [(key[4], value) for key, value in read_ratings(tmp_path / "r.csv").values.items() if key[1] == "otto"]
        words = ("real", "realism", "anatomy", "agreement")
        assert said[:8] == [*zip(words, (1, 4, 3, 5), strict=True), *zip(words, (0, 1, 1, 1), strict=True)]
        browser.close()
        assert problems == []
