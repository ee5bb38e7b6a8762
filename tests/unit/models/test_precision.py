"""Precision "auto" is what a measurement that noise cannot turn says; what is asked for is not measured."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from medgen.config import convert, load_preset
from medgen.models import precision
from medgen.models.precision import KERNEL_LEAD, LEAD, choose, choose_kernels, measure
from medgen.models.timing import Times, in_turns
from medgen.models.trained import Denoiser, FrozenVAE
from medgen.nets.blocks import Upsample
from medgen.nets.kernels import Kernels
from medgen.nets.options import UNetConfig, VAEConfig
from medgen.nets.units import block_samples, upsampling_samples

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
LARGE = UNetConfig(widths=(128, 256), blocks=1, attention=("none", "none"), mid_attention="none")


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


def test_the_parts_are_as_wide_as_the_levels_and_as_large_as_in_use() -> None:
    assert [tuple(x.shape) for _, (x, *_) in block_samples(TINY) if x is not None] == [(2, 16, 32, 32), (2, 32, 16, 16)]
    assert [tuple(x.shape) for _, (x,) in upsampling_samples(TINY) if x is not None] == [(2, 32, 16, 16)]
    deep = UNetConfig(widths=(8,) * 8, groups=8, attention=("none",) * 8, mid_attention="none")
    volume_vae = VAEConfig(dims=3, widths=(8, 8), groups=8)
    for network in (TINY, VOLUMES, SMALL_VAE, deep, volume_vae):
        for part, (x, *others) in itertools.chain(block_samples(network), upsampling_samples(network)):
            assert x is not None
            sides = x.shape[2:]
            if isinstance(part, Upsample):
                sides = (*sides[:-2], 2 * sides[-2], 2 * sides[-1])
            assert part(x, *others).shape == (*x.shape[:2], *sides)


def test_of_wide_networks_a_part_of_the_image_is_timed() -> None:
    """Or they would be measured for longer than it takes to draw an image."""
    wide = UNetConfig(widths=(320, 640), groups=32, attention=("none", "none"), mid_attention="none", blocks=1)
    _, (x, *_) = next(block_samples(wide))
    assert x is not None
    assert x.shape == (1, 320, 16, 16)


def test_one_thread_is_timed_and_then_there_are_as_many_as_before() -> None:
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        in_turns([(lambda: seen.append(torch.get_num_threads()),) * 2])
        assert (set(seen), torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)


def test_images_are_handed_to_a_part_as_the_parts_before_it_lay_them_out() -> None:
    """Upsampling in two steps once seemed faster, since only its input was copied first."""
    laid = []

    class Asked(torch.nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            laid.append(x.is_contiguous(memory_format=torch.channels_last))
            return super().forward(x)

    for kernels in (Kernels(), Kernels(channels_last=False)):
        precision._pass(Asked(4, 4, 3), (torch.randn(2, 4, 8, 8),), torch.float32, False, kernels)()
    assert laid == [True, False]


def test_the_shortest_of_several_passes_counts_so_that_noise_does_not_decide() -> None:
    """In truth bfloat16 takes half as long; two of three of its passes are disturbed."""

    def seconds() -> Iterator[float]:
        for _ in block_samples(TINY):
            yield from (0.002, 0.010, 0.0025, 0.001, 0.003, 0.007)

    assert measure(TINY, False, Scripted(seconds())) == pytest.approx((0.004, 0.002))


def test_what_is_hopeless_is_not_measured_to_the_end() -> None:
    """Emulated bfloat16 may take twenty times as long."""
    passes = []
    one, other = (lambda: passes.append("one")), (lambda: passes.append("other"))
    times = in_turns([(one, other)] * 2, Scripted(iter((0.001, 0.020, 0.0015, 0.021) * 2)))
    assert times == pytest.approx((0.002, 0.040))
    assert passes == ["one", "other"] * 3 * 2  # the first of three is not timed


def test_long_passes_are_timed_once() -> None:
    passes = []
    one, other = (lambda: passes.append("one")), (lambda: passes.append("other"))
    assert in_turns([(one, other)], Scripted(iter((0.3, 0.2)))) == pytest.approx((0.3, 0.2))
    assert passes == ["one", "other"] * 2  # the first of two is not timed


@pytest.mark.parametrize("ratio", [0.2, 0.99, 1.0, LEAD - 0.01, LEAD + 0.01, 3.0])
def test_bfloat16_needs_a_clear_lead(ratio: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "measured", lambda network, training: Times(ratio, 1.0))
    choice = choose("auto", LARGE, CPU)
    assert choice.name == ("bfloat16" if ratio > LEAD else "float32")
    assert f"bfloat16 is {ratio:.2f} times as fast as float32" in str(choice)


@pytest.mark.parametrize("lead", [1 / KERNEL_LEAD, 1.0, 0.99 * KERNEL_LEAD, 1.01 * KERNEL_LEAD])
def test_a_kernel_other_than_the_default_needs_a_lead_too(lead: float) -> None:
    chosen = choose_kernels(TINY, torch.bfloat16, Scripted(itertools.cycle((lead, 1.0))))
    assert chosen == (Kernels(False, False, False) if lead > KERNEL_LEAD else Kernels())


def test_kernels_that_a_network_has_no_work_for_stay_as_they_are() -> None:
    """Volumes have one layout; the VAE has no attention, nor has float32 a formula of its own."""
    always = itertools.cycle((2.0, 1.0))
    assert choose_kernels(VOLUMES, torch.bfloat16, Scripted(always)) == Kernels(True, False, False)
    assert choose_kernels(SMALL_VAE, torch.bfloat16, Scripted(always)) == Kernels(False, False, True)
    assert choose_kernels(TINY, torch.float32, Scripted(always)) == Kernels(False, False, True)


@pytest.mark.parametrize("kernels", [Kernels(*ways) for ways in itertools.product((False, True), repeat=3)], ids=str)
def test_all_kernels_give_the_same_to_rounding(tiny: Path, kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    x, t = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((4,), 500.0)
    vae, model = tiny / "vae.safetensors", tiny / "model.safetensors"
    expected = FrozenVAE.load(vae, CPU, "float32").decode(x), Denoiser.load(model, CPU, "float32")(x, t)
    monkeypatch.setattr("medgen.models.trained.measured_kernels", lambda network, dtype: kernels)
    loaded = FrozenVAE.load(vae, CPU), Denoiser.load(model, CPU)
    assert loaded[0].kernels == loaded[1].kernels == kernels
    torch.testing.assert_close((loaded[0].decode(x), loaded[1](x, t)), expected, rtol=1e-4, atol=1e-4)
    assert any(
        module.fused == kernels.fused_upsampling
        for module in loaded[0].network.modules()
        if isinstance(module, Upsample)
    )
    laid = loaded[0].network.decoder.input.weight.is_contiguous(memory_format=torch.channels_last)
    assert laid == kernels.channels_last
    for exact in (FrozenVAE.load(vae, CPU, "float32"), FrozenVAE.load(vae, CPU, tuned=False)):
        assert exact.kernels == Kernels()


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
    assert choose("auto", LARGE, CPU).name == "float32"
    assert choose("auto", SMALL_VAE, CPU, training=True).name == "bfloat16"
    assert asked == [(LARGE, False), (SMALL_VAE, True)]


def test_small_networks_are_measured_for_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lidc-nodule-tiny's lead is 1.2 to 1.3 on an AMD EPYC: two runs of one command gave different bytes."""
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "measured", lambda network, training: Times(2.0, 1.0))
    monkeypatch.setattr(precision, "choose_kernels", lambda network, dtype: Kernels(False, False, False))
    for name in ("lidc-nodule-tiny", "ct-interpolation-tiny", "dental-normalizer-tiny"):
        for command, kind in (("train-vae", VAEConfig), ("train-diffusion", UNetConfig)):
            for preset in (name, name.removesuffix("-tiny")):
                network = network_of(preset, command, kind)
                small = preset == name
                assert choose("auto", network, CPU).name == ("float32" if small else "bfloat16"), (preset, command)
                assert choose("auto", network, CPU, training=True).name == "bfloat16"
                assert (precision.measured_kernels(network, torch.float32) == Kernels()) == small
    precision.measured_kernels.cache_clear()
    for dims, narrow, wide in ((2, (64, 128), (64, 128, 256)), (3, (32, 64), (64, 128))):
        for widths in (narrow, wide):
            network = UNetConfig(dims=dims, widths=widths, attention=("none",) * len(widths), mid_attention="none")
            assert choose("auto", network, CPU).name == ("float32" if widths == narrow else "bfloat16")
    assert choose("auto", VAEConfig(widths=(32, 64, 128, 128)), CPU).name == "bfloat16"  # of images, not of latents


def network_of(preset: str, command: str, kind: type[UNetConfig | VAEConfig]) -> UNetConfig | VAEConfig:
    """The network of a command of a preset."""
    return convert(kind, load_preset(preset)[command]["network"], preset)


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


def test_costly_passes_that_tell_enough_are_the_last() -> None:
    asked = []

    def passes() -> Iterator[tuple[Any, Any]]:
        for number in range(5):
            asked.append(number)
            yield (lambda: None, lambda: None)

    clock = Scripted(itertools.cycle([0.012, 0.006]))
    assert in_turns(passes(), clock) == pytest.approx((0.024, 0.012))
    assert asked == [0, 1]  # the others are not even built


def test_a_processor_without_bfloat16_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: False)
    monkeypatch.setattr(precision, "measured", None)  # would raise
    chosen = choose("auto", TINY, CPU, training=True)
    assert (chosen.dtype, "no instructions" in chosen.reason) == (torch.float32, True)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names instructions of x86 processors")
def test_instructions_that_are_held_back_do_not_count() -> None:
    command = "from medgen.models.precision import computes_bfloat16; assert not computes_bfloat16()"
    held = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    subprocess.run([sys.executable, "-c", command], env=held, check=True)
