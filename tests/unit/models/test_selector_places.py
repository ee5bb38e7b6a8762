"""Selectors look at what the request names: the place, and the text."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medgen.artifacts.schema import Case
from medgen.errors import DataError
from medgen.models.selector import Describer, Selector, requested_of
from medgen.nets.perception.requested import REGION, Requested, discs

FIELDS = ("has_nodule", "x", "y", "size")


def test_a_disc_covers_the_place_that_a_vector_names() -> None:
    disc = discs(torch.tensor([[1.0, 0.25, 0.5, 0.25]]), FIELDS, 256, 128)[0, 0].double()
    assert float(disc.sum()) == pytest.approx(math.pi * 16**2, rel=0.03)  # a diameter of 0.25 of 128 pixels
    rows, columns = torch.nonzero(disc, as_tuple=True)
    assert float((rows + 0.5).mean()) == pytest.approx(128)
    assert float((columns + 0.5).mean()) == pytest.approx(32)


def test_a_disc_of_no_size_is_none_and_a_small_one_has_a_pixel() -> None:
    vectors = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.51, 0.49, 0.001]])
    none, small = discs(vectors, FIELDS, 16, 16).sum(dim=(1, 2, 3)).tolist()
    assert none == 0
    assert 1 <= small <= 4


def test_the_last_features_tell_a_nodule_where_it_was_asked_for_from_one_elsewhere() -> None:
    vectors = torch.tensor([[1.0, 0.25, 0.5, 0.2], [1.0, 0.75, 0.5, 0.2], [0.0, 0.0, 0.0, 0.0]])
    image = 1.5 * discs(vectors[:1], FIELDS, 32, 32).float() - 0.9
    describe = Describer(None, 1, torch.device("cpu"), FIELDS)
    features, _ = describe(image.expand(3, 1, 32, 32), Requested(vector=vectors))
    mean, _, contrast, _ = features[:, -REGION:].T
    assert describe.regions == REGION
    assert contrast.tolist() == pytest.approx([1.5, 0.0, 0.0], abs=0.2)
    assert mean.tolist() == pytest.approx([0.6, -0.9, 0.0], abs=0.2)
    plain, _ = Describer(None, 1, torch.device("cpu"))(image, Requested(vector=vectors[:1]))
    assert torch.equal(features[:1, :-REGION], plain)


def test_a_case_without_the_text_that_a_selector_judges_by_is_named() -> None:
    image = np.zeros((1, 1, 8, 8), np.uint8)
    asked = requested_of(Case("told", {"image": image}, text=("a cyst",)), ("text", "modality"), slice(0, 1))
    assert (asked.text, asked.modality) == (["a cyst"], [""])
    with pytest.raises(DataError, match="case bare: has no text"):
        requested_of(Case("bare", {"image": image}), ("text",), slice(0, 1))


def test_a_batch_in_which_no_request_names_a_modality_is_judged_like_any_other() -> None:
    """An alignment met such a batch in the middle of its updates."""
    told = SimpleNamespace(parts=("text", "modality"))
    network = SimpleNamespace(facts=told, network=lambda image, request: request, model=SimpleNamespace(path="s"))
    judge = Selector(network, Describer(None, 1, torch.device("cpu")))  # type: ignore[arg-type]
    images, texts = torch.zeros(2, 1, 16, 16), ["a cyst", "no cyst"]
    both = judge.scores(images, Requested(text=texts, modality=["", "MR"]))
    alone = judge.scores(images[:1], Requested(text=texts[:1]))
    assert torch.equal(alone, both[:1])
    assert not torch.equal(alone, judge.scores(images[:1], Requested(text=texts[:1], modality=["MR"])))
    with pytest.raises(DataError, match="also judges images by their text"):
        judge.scores(images, Requested(modality=["", "MR"]))
