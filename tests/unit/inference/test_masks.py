"""Masks as a model wants them, and where images show something."""

from __future__ import annotations

import numpy as np
import pytest

from medgen.artifacts.label_maps import BINARY
from medgen.errors import DataError
from medgen.inference.conditions.masks import ModelMasks, foreground_of

MASKS = ModelMasks(("background", "polyp"), (6, 8))


def test_a_map_is_resized_by_nearest_neighbour_if_its_aspect_is_the_same() -> None:
    small = np.arange(12, dtype=np.uint8).reshape(3, 4)
    large = MASKS.fitted(small, "a.png")
    np.testing.assert_array_equal(large, np.kron(small, np.ones((2, 2), np.uint8)))
    np.testing.assert_array_equal(ModelMasks((), (3, 4)).fitted(large, "a.png"), small)
    assert MASKS.fitted(np.zeros((600, 801), np.uint8), "a.png").shape == (6, 8)  # rounded by whoever made it
    with pytest.raises(DataError, match=r"a.png: is a mask of 6 x 8 pixels, and the model makes images of 8 x 6"):
        MASKS.fitted(np.zeros((8, 6), np.uint8), "a.png")


def test_one_class_without_a_name_is_that_of_the_model() -> None:
    assert MASKS.called(BINARY) == ("background", "polyp")
    assert ModelMasks(BINARY, (6, 8)).called(("background", "polyp")) == BINARY
    assert MASKS.called(("background", "fold")) == ("background", "fold")
    assert MASKS.called((*BINARY, "fold")) == (*BINARY, "fold")


def test_the_foreground_is_what_no_dark_edge_reaches() -> None:
    image = np.zeros((3, 20, 20), np.uint8)
    image[:, 4:16, 4:16] = 200
    image[:, 8:10, 8:10] = 0  # a dark spot within
    expected = np.zeros((20, 20), bool)
    expected[4:16, 4:16] = True
    found = foreground_of(image)
    assert found is not None
    np.testing.assert_array_equal(found, expected)
    image[0, 12, 12] = 0
    image[:, expected == 0] = 11  # the dark border of an endoscope's video is not its darkest value
    noisy = image + np.random.default_rng(0).integers(0, 4, image.shape, dtype=np.uint8)
    again = foreground_of(noisy)
    assert again is not None
    np.testing.assert_array_equal(again, expected)


def test_nobody_knows_the_foreground_of_an_image_that_is_dark_nearly_everywhere() -> None:
    image = np.zeros((1, 20, 20), np.uint8)
    image[0, 8:11, 8:11] = 200
    assert foreground_of(image) is None
    assert foreground_of(np.full((1, 4, 4), 7)) is None
    bright = np.full((1, 20, 20), 200, np.uint8)
    bright[0, 8:11, 8:11] = 0
    assert foreground_of(bright) is None
