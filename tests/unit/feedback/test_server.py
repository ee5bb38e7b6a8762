"""What the page's server does when something goes wrong under it."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medgen.artifacts.sets import open_set
from medgen.errors import DataError, StorageError
from medgen.feedback.rate_options import RateOptions
from medgen.feedback.server import RatingServer
from medgen.feedback.session import Session
from medgen.imaging.labels.ratings import RatingsFile


def ask(server: RatingServer, path: str, body: Any = None) -> tuple[int, str]:
    host = server.hosts[0]
    connection = http.client.HTTPConnection(host, timeout=20)
    headers = {"Cookie": server.cookie, "Origin": f"http://{host}"}
    connection.request("GET" if body is None else "POST", path, body and json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace")


def test_a_failure_ends_the_command_with_an_error_unless_it_was_mended(
    make_set: Callable[..., Path], tmp_path: Path
) -> None:
    path, ratings = make_set("samples.h5", count=6), tmp_path / "r.csv"
    rating = {"position": 0, "aspect": "overall", "value": 3}
    with (
        open_set(path, random_access=True) as stored,
        RatingsFile(ratings) as file,
        RatingServer(Session(stored, None, file, RateOptions(rater="anna")), 0) as server,
    ):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
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
        finally:
            server.shutdown()
            thread.join()
    assert [type(one) for one in failures] == [StorageError, type(None), DataError]
