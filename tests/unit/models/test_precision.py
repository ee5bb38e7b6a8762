"""Precision "auto" is what a measurement that noise cannot turn says; what is asked for is not measured."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from medgen.models import precision
from medgen.models.precision import LEAD, Times, choose, faster, measure
from medgen.nets.stages import stages
from medgen.nets.unet_config import UNetConfig
from medgen.nets.vae import VAEConfig

CPU = torch.device("cpu")
TINY = UNetConfig(
    in_channels=4, out_channels=4, widths=(16, 32), blocks=1, attention=("none", "full"), head_width=16, time_width=8,
    groups=8,
)  # fmt: skip
VOLUMES = UNetConfig(
    dims=3, widths=(8, 16), blocks=1, attention=("linear", "none"), head_width=8, time_width=8, groups=4,
    context_width=6,
)  # fmt: skip
SMALL_VAE = VAEConfig(widths=(8, 16), groups=4, blocks=1)


class Scripted:
    """A clock on which each pass takes what `seconds` says, in the order in which they are made."""

    def __init__(self, seconds: Iterator[float]) -> None:
        self.seconds, self.now, self.running = seconds, 0.0, False

    def __call__(self) -> float:
        self.now += next(self.seconds) if self.running else 0.0
        self.running = not self.running
        return self.now


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("network", [TINY, VOLUMES, SMALL_VAE], ids=["unet", "volumes", "vae"])
def test_a_block_of_each_level_runs_in_both_precisions(network: UNetConfig | VAEConfig, training: bool) -> None:
    before = torch.get_rng_state()
    times = measure(network, training)
    assert min(times) > 0
    assert torch.equal(torch.get_rng_state(), before)  # the weights of what is trained do not depend on it


def test_the_blocks_are_as_wide_as_the_levels_and_as_large_as_in_use() -> None:
    made = list(stages(TINY))
    assert [arguments[0].shape for _, arguments in made] == [(2, 16, 32, 32), (2, 32, 16, 16)]  # type: ignore[union-attr]
    for block, arguments in [*made, *stages(VOLUMES), *stages(SMALL_VAE)]:
        assert block(*arguments).shape == arguments[0].shape  # type: ignore[union-attr]


def test_the_shortest_of_several_passes_counts_so_that_noise_does_not_decide() -> None:
    """In truth bfloat16 takes half as long; three of four of its passes are disturbed."""

    def seconds() -> Iterator[float]:
        for _ in stages(TINY):
            for disturbed in (10.0, 1.0, 7.0):
                yield 2.0
                yield 1.0 * disturbed

    assert measure(TINY, False, Scripted(seconds())) == Times(4.0, 2.0)
    assert faster(Times(4.0, 2.0)).dtype == torch.bfloat16


def test_what_is_hopeless_is_not_measured_to_the_end() -> None:
    """Emulated bfloat16 may take twenty times as long."""

    def seconds() -> Iterator[float]:
        for _ in stages(TINY):  # two rounds a level, and no more
            yield from (1.0, 20.0, 1.5, 21.0)

    clock = Scripted(seconds())
    assert measure(TINY, True, clock) == Times(2.0, 40.0)


@pytest.mark.parametrize("ratio", [0.2, 0.99, 1.0, LEAD - 0.01, LEAD + 0.01, 3.0])
def test_bfloat16_needs_a_clear_lead(ratio: float) -> None:
    choice = faster(Times(ratio, 1.0))
    assert choice.name == ("bfloat16" if ratio > LEAD else "float32")
    assert f"bfloat16 is {ratio:.2f} times as fast as float32" in str(choice)


def test_what_is_asked_for_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "measured", lambda network, training: pytest.fail("measured"))
    assert choose("float32", TINY, CPU).dtype == torch.float32
    assert choose("bfloat16", TINY, CPU, training=True).dtype == torch.bfloat16


def test_auto_is_what_the_measurement_of_this_network_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(network: object, training: bool) -> Times:
        asked.append((network, training))
        return Times(2.0, 1.0) if training else Times(1.0, 1.0)

    monkeypatch.setattr(precision, "measured", measured)
    assert choose("auto", TINY, CPU).name == "float32"
    assert choose("auto", SMALL_VAE, CPU, training=True).name == "bfloat16"
    assert asked == [(TINY, False), (SMALL_VAE, True)]


def test_a_network_is_measured_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # of what holds for all other tests
    passes = []
    monkeypatch.setattr(precision, "measure", lambda *arguments: passes.append(arguments) or Times(1.0, 1.0))
    odd = UNetConfig(widths=(24, 48), groups=24, attention=("none", "none"), mid_attention="none")
    equal = UNetConfig(widths=(24, 48), groups=24, attention=("none", "none"), mid_attention="none")
    for network in (odd, equal, odd):
        precision.measured(network, False)
    precision.measured(odd, True)
    assert passes == [(odd, False), (odd, True)]
    precision.measured.cache_clear()
