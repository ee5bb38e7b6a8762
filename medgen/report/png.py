"""Images as PNG data URIs, the same bytes every time."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from medgen.evaluation.section import Pixels

LEVEL = 9


def encode(pixels: Pixels) -> bytes:
    """(H, W) grey or (H, W, 3) RGB of 8 bits -> a PNG file (ISO/IEC 15948), no other chunks than it needs."""
    height, width = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    lines = np.ascontiguousarray(pixels, np.uint8).reshape(height, -1).astype(np.int16)
    # Filter "up": each line less the one above, which smooth images compress by.
    lines[1:] -= lines[:-1].copy()
    filtered = np.concatenate([np.full((height, 1), 2), lines % 256], axis=1).astype(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), LEVEL)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def data_uri(pixels: Pixels) -> str:
    """The image as text that stands in a page."""
    return "data:image/png;base64," + base64.b64encode(encode(pixels)).decode("ascii")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
