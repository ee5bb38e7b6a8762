"""The rating page, on this machine only: only the first to open the printed address is let in.

GET  /?token=T                        lets in once, then redirects to the page, with a cookie
GET  /                                the page, with rate.js and rate.css
GET  /start, /item/P                  facts, as JSON
GET  /pixels/P/SIDE/SLICE             stored values, little-endian; /mask/P/SIDE/SLICE: a label map
POST /rate {position, aspect, value}  answers once the rating is on disk
POST /undo {}
"""

from __future__ import annotations

import errno
import hmac
import re
import secrets
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from medgen.errors import MedgenError, StorageError, UnavailableError, UsageError
from medgen.feedback.session import Session

HOST = "127.0.0.1"
FILES = {
    "/": ("rate.html", "text/html; charset=utf-8"),
    "/rate.js": ("rate.js", "text/javascript; charset=utf-8"),
    "/rate.css": ("rate.css", "text/css; charset=utf-8"),
}
LONGEST_REQUEST = 4096
_NUMBER = re.compile("[0-9]{1,9}")
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
"""Nothing from outside, nor any script in the page itself."""


class _Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    position: int
    aspect: str
    value: float


class _Undo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class RatingServer(ThreadingHTTPServer):
    """Serves one session on this machine; UnavailableError where the port is taken."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, session: Session, port: int) -> None:
        self.session = session
        self.token = secrets.token_urlsafe(16)
        """Lets the first who brings it in; empty from then on."""
        self.files = {path: _page_file(name) for path, (name, _) in FILES.items()}
        self.failure: Exception | None = None
        """Why a rating could not be written, or an image not read; the page says so too."""
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
            why = f"port {port} is in use or not allowed; give another --port, or --port 0 for any free one"
            raise UnavailableError(why if taken else f"the page cannot be served: {error.strerror}") from None
        # Browsers keep the cookies of a host, whatever the port: that of another page must not replace ours.
        self.cookie = f"medgen-{self.server_address[1]}={secrets.token_urlsafe(32)}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a connection that a browser broke off; a fault of ours is raised at the end."""
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, OSError):
            self.failure = self.failure or error

    @property
    def hosts(self) -> tuple[str, ...]:
        """The host names that browsers on this machine use."""
        port = self.server_address[1]
        return f"{HOST}:{port}", f"localhost:{port}"

    @property
    def address(self) -> str:
        """The page's address, with the token."""
        return f"http://{self.hosts[0]}/?token={self.token}"


class _Refused(Exception):
    """A request refused with `status` and a line of text."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: RatingServer
    protocol_version = "HTTP/1.1"
    timeout = 600
    disable_nagle_algorithm = True  # else an answer waits 40 ms for the browser to confirm its head

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing: the page reports."""

    def _answer(self, work: Any) -> None:
        try:
            if self.headers.get("Host") not in self.server.hosts:
                raise _Refused(HTTPStatus.FORBIDDEN, "this page is for this machine alone")
            work()
        except _Refused as refused:
            self._send(refused.status, str(refused).encode(), "text/plain; charset=utf-8")
        except UsageError as error:
            self._send(HTTPStatus.BAD_REQUEST, str(error).encode(), "text/plain; charset=utf-8")
        except MedgenError as error:
            self.server.failure = error
            self._send(HTTPStatus.INSUFFICIENT_STORAGE, str(error).encode(), "text/plain; charset=utf-8")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _get(self) -> None:
        url = urlsplit(self.path)
        token = parse_qs(url.query).get("token", [""])[0]
        if url.path == "/" and token:
            self._let_in(token)
            return
        self._check_cookie()
        if url.path in FILES:
            self._send(HTTPStatus.OK, self.server.files[url.path], FILES[url.path][1])
            return
        session = self.server.session
        match url.path.strip("/").split("/"):
            case ["start"]:
                self._send_json(session.start())
            case ["item", position]:
                self._send_json(session.item(_number(position)))
            case ["pixels" | "mask" as what, position, side, number]:
                values = session.pixels(_number(position), _number(side), _number(number), mask=what == "mask")
                little = values.astype(values.dtype.newbyteorder("<"), copy=False)
                self._send(HTTPStatus.OK, little.tobytes(), "application/octet-stream")
            case _:
                raise _Refused(HTTPStatus.NOT_FOUND, "no such page")

    def _post(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not _NUMBER.fullmatch(length) or int(length) > LONGEST_REQUEST:
            self.close_connection = True
            raise _Refused(HTTPStatus.BAD_REQUEST, "a request needs a length, and a small one")
        body = self.rfile.read(int(length))  # always read, so that the next request begins where this one ends
        if self.headers.get("Origin") not in [f"http://{host}" for host in self.server.hosts]:
            raise _Refused(HTTPStatus.FORBIDDEN, "ratings are taken from this page alone")
        self._check_cookie()
        try:
            if self.path == "/rate":
                said = msgspec.json.decode(body, type=_Rate)
                told = self.server.session.rate(said.position, said.aspect, said.value)
                if isinstance(self.server.failure, StorageError):
                    self.server.failure = None  # what could not be written before can be now
                self._send_json(told)
            elif self.path == "/undo":
                msgspec.json.decode(body, type=_Undo)
                self._send_json(self.server.session.undo())
            else:
                raise _Refused(HTTPStatus.NOT_FOUND, "no such page")
        except msgspec.DecodeError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"not a rating: {error}") from None

    def _let_in(self, token: str) -> None:
        if "prefetch" in self.headers.get("Sec-Purpose", "") + self.headers.get("Purpose", ""):
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "not before the page is opened")
        if self._has_cookie():
            pass  # reopened by the one already let in
        elif self.server.token and hmac.compare_digest(token.encode(), self.server.token.encode()):
            self.server.token = ""
        else:
            raise _Refused(
                HTTPStatus.FORBIDDEN,
                "this address was used already; end medgen rate, start it again, and open the new one",
            )
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", "/")
        self.send_header("Set-Cookie", f"{self.server.cookie}; HttpOnly; SameSite=Strict; Path=/")
        self._end(b"", "text/plain")

    def _check_cookie(self) -> None:
        if not self._has_cookie():
            raise _Refused(HTTPStatus.FORBIDDEN, "open the address that medgen rate printed")

    def _has_cookie(self) -> bool:
        pairs = (pair.strip() for pair in self.headers.get("Cookie", "").split(";"))
        return any(hmac.compare_digest(pair.encode(), self.server.cookie.encode()) for pair in pairs)

    def _send_json(self, content: Any) -> None:
        self._send(HTTPStatus.OK, msgspec.json.encode(content), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self._end(body, kind)

    def _end(self, body: bytes, kind: str) -> None:
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise UsageError(f"'{text[:20]}' is not the number of an image or slice")
    return int(text)


def _page_file(name: str) -> bytes:
    return (resources.files("medgen.feedback") / "page" / name).read_bytes()
