from __future__ import annotations

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from medgen.report.png import data_uri, encode

shapes = st.one_of(
    array_shapes(min_dims=2, max_dims=2, max_side=20),
    array_shapes(min_dims=2, max_dims=2, max_side=20).map(lambda shape: (*shape, 3)),
)


@given(arrays(np.uint8, shapes))
def test_another_reader_sees_the_same_pixels(pixels: np.ndarray) -> None:
    image = Image.open(io.BytesIO(encode(pixels)))
    assert image.mode == ("RGB" if pixels.ndim == 3 else "L")
    assert np.array_equal(np.asarray(image), pixels)


def test_smooth_images_become_small_and_stay_the_same_bytes() -> None:
    pixels = np.add.outer(np.arange(200), np.arange(100)).astype(np.uint8)
    assert len(encode(pixels)) < pixels.size / 20
    assert data_uri(pixels) == data_uri(pixels.copy())
    assert data_uri(pixels).startswith("data:image/png;base64,iVBORw0KGgo")
