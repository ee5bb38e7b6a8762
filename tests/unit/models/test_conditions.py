"""A network gets what its parts are for, or is refused before it is trained."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace

from medgen.errors import ConfigError
from medgen.models.condition import PARTS, check_fed, condition_of, fitted_to_vectors
from medgen.nets.condition import Condition
from medgen.nets.options import SideConfig, UNetConfig


def test_every_part_is_one_of_the_condition_and_of_the_network() -> None:
    assert set(PARTS) < set(Condition.__dataclass_fields__)
    assert {part.field for part in PARTS.values()} <= set(UNetConfig.__struct_fields__)


def test_a_batch_tells_its_condition() -> None:
    batch = {"x": torch.zeros(2, 1, 4, 4), "vector": torch.ones(2, 3), "mask": torch.ones(2, 1, 4, 4)}
    condition = condition_of(batch)
    assert condition.vector is batch["vector"]
    assert condition.mask is batch["mask"]
    assert condition.tokens is None
    assert condition_of({"x": batch["x"]}) == Condition()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_width": 64}, "network.context_width: the denoiser gives its network no text"),
        ({"side": SideConfig()}, "network.side: the denoiser gives its network no mask"),
        ({"heads": ("a", "b")}, "network.heads: the denoiser knows its outputs"),
    ],
)
def test_what_nothing_feeds_is_refused(change: dict[str, object], message: str) -> None:
    check_fed(UNetConfig(vector_size=3), ["vector"], "denoiser")
    with pytest.raises(ConfigError, match=message):
        check_fed(replace(UNetConfig(), **change), ["vector"], "denoiser")
    with pytest.raises(ConfigError, match=r"network.vector_size: the normalizer gives its network no condition vector"):
        check_fed(UNetConfig(vector_size=3), [], "normalizer")


def test_vectors_size_the_network_unless_another_size_was_asked_for() -> None:
    assert fitted_to_vectors(UNetConfig(), ["a", "b"]).vector_size == 2
    assert fitted_to_vectors(UNetConfig(vector_size=2), ["a", "b"]).vector_size == 2
    with pytest.raises(ConfigError, match=r"network.vector_size = 4: the set's vectors have 2 fields"):
        fitted_to_vectors(UNetConfig(vector_size=4), ["a", "b"])
