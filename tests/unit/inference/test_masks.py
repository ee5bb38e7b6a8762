"""Masks as a model wants them, and where images show something."""

from __future__ import annotations

import numpy as np

from medgen.artifacts.label_maps import BINARY
from medgen.inference.conditions.masks import ModelMasks, foreground_of

MASKS = ModelMasks(("background", "polyp"), (6, 8))


def test_a_map_is_resized_by_nearest_neighbour_and_padded_to_the_aspect_of_the_model() -> None:
    small = np.arange(12, dtype=np.uint8).reshape(3, 4)
    large = MASKS.fitted(small)
    np.testing.assert_array_equal(large, np.kron(small, np.ones((2, 2), np.uint8)))
    np.testing.assert_array_equal(ModelMasks((), (3, 4)).fitted(large), small)
    assert MASKS.fitted(np.zeros((600, 801), np.uint8)).shape == (6, 8)  # rounded by whoever made it
    tall = np.ones((12, 8), np.uint8)
    padded = MASKS.fitted(tall)
    assert padded.any(axis=0).tolist() == [False, False, True, True, True, True, False, False]
    told = "of 8 x 12 pixels are resized to 4 x 6 by nearest neighbour"
    assert MASKS.how(tall.shape) == f"{told}, and padded with background to 8 x 6"
    assert ModelMasks((), (6, 8), keep_aspect=False).fitted(tall).all()
    assert not MASKS.how((6, 8))


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
