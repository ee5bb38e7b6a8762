"""Images as PNG data URIs, the same bytes every time."""

from __future__ import annotations

import base64
import io

from PIL import Image

from medgen.evaluation.section import Pixels


def encode(pixels: Pixels) -> bytes:
    """(H, W) grey or (H, W, 3) RGB of 8 bits -> a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def data_uri(pixels: Pixels) -> str:
    """The image as text to embed in a page."""
    return "data:image/png;base64," + base64.b64encode(encode(pixels)).decode("ascii")
