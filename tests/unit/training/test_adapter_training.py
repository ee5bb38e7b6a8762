"""Training an adapter: what it says it saves, what it keeps of its model, and what a resumed one must find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from medgen.artifacts.model_file import Model, open_model
from medgen.cli.app import run as run_command
from medgen.errors import DataError
from medgen.models.trained import Interpolator, NormalizerNetwork
from medgen.nets.lora.four_bit import size_of
from medgen.nets.lora.low_rank import of_changes
from medgen.nets.options import LoraConfig, UNetConfig
from medgen.nets.unet import UNet
from medgen.training.learners.diffusion import train_diffusion
from medgen.training.loop.adapter import attach, bytes_to_train, told
from medgen.training.loop.ema import MovingAverage
from medgen.training.loop.optimizers import Optimizers
from medgen.training.loop.options import LoopOptions
from medgen.training.loop.resume import pack, unpack
from medgen.training.loop.run import Run
from tests.unit.training import test_interpolator, test_normalizer_learner
from tests.unit.training.conftest import Reporter
from tests.unit.training.test_interpolator import thin  # noqa: F401

RunOf = Callable[..., Run]
CPU = torch.device("cpu")
ALL = LoraConfig(parts=("all",), rank=2)


@pytest.fixture
def network() -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig(in_channels=2, out_channels=2, widths=(16, 32), attention=("none", "full"), groups=8,
                           head_width=16, time_width=64, blocks=1))  # fmt: skip


@pytest.mark.parametrize("lora", [LoraConfig(rank=4), LoraConfig(parts=("all",), rank=2, four_bit=True)])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_what_it_says_to_save_is_what_is_held(network: UNet, lora: LoraConfig, ema: float) -> None:
    before, options = size_of(network), LoopOptions(ema=ema)
    parameters = sum(weight.numel() for weight in network.parameters())
    attach(network, lora, seed=0)
    optimizers = Optimizers([network], options, CPU, torch.float32)
    average = MovingAverage(network, ema) if ema else None
    network(torch.randn(2, 2, 8, 8), torch.tensor([1.0, 500.0])).square().mean().backward()
    held = sum(weight.grad.nbytes for weight in network.parameters() if weight.grad is not None)
    optimizers.step(1e-3)
    moments = optimizers.each[0].state_dict()["state"].values()
    held += sum(value.nbytes for one in moments for value in one.values() if value.ndim)
    held += sum(tensor.nbytes for tensor in average.state().values()) if average else 0
    trained = of_changes(network.state_dict())
    own = sum(tensor.numel() for tensor in trained.values())
    assert held == own * bytes_to_train(options)
    message = told(network, before, options)
    assert f"trains {own:,} parameters" in message
    assert f"keeps {parameters:,} as they are" in message
    assert ("frozen weights take" in message) == lora.four_bit
    if lora.four_bit:
        kilobytes = sum(part.nbytes for part in (*network.parameters(), *network.buffers())) - 4 * own
        assert f"take {kilobytes / 1024:.3g} KiB instead of {before / 1024:.3g} KiB" in message


@pytest.mark.parametrize("forgotten", [".lora.down.weight", ".lora.up.weight"])
def test_a_saved_state_without_a_matrix_is_refused(network: UNet, forgotten: str) -> None:
    attach(network, ALL, seed=0)
    optimizer = Optimizers([network], LoopOptions(), CPU, torch.float32).each[0]
    packed = {name: tensor.clone() for name, tensor in pack(network, optimizer, {}).items()}
    assert {name.removeprefix("model.") for name in packed} == {*of_changes(network.state_dict())}
    unpack(packed, network, optimizer, {})
    lost = next(name for name in packed if name.endswith(forgotten))
    del packed[lost]
    with pytest.raises(DataError, match="the saved state lacks the weight"):
        unpack(packed, network, optimizer, {})


def adapter_of(base: Run, run: Run, options: Any) -> Model:
    """Train an adapter of the model that `base` makes, and merge it into that model."""
    train_diffusion(base, options)
    train_diffusion(run, replace(options, init=str(base.output), lora=ALL))
    merged = run.output.with_name("merged.safetensors")
    assert run_command(["merge-adapter", str(base.output), str(run.output), "-o", str(merged)]) == 0
    return open_model(merged)


def test_an_interpolator_keeps_its_scale_of_residuals(tiny: Path, thin: Path, run_of: RunOf) -> None:  # noqa: F811
    options = test_interpolator.options_of(tiny, {"steps": 2})
    base, run = run_of("train-diffusion", thin, "base.safetensors"), run_of("train-diffusion", thin, "a.safetensors")
    train_diffusion(base, options)
    other = test_interpolator.options_of(tiny, {"steps": 2}, volumes=replace(options.volumes, thick_spacing=(2.0, 3.0)))
    train_diffusion(run, replace(other, init=str(base.output), lora=ALL))
    adapter, model = open_model(run.output), open_model(base.output)
    assert adapter.facts["base_kind"] == "interpolator"
    assert adapter.facts["model"]["residual_std"] == model.facts["residual_std"]
    assert adapter.facts["model"]["thick_spacing"] == [2.0, 3.0]
    merged = run.output.with_name("merged.safetensors")
    assert run_command(["merge-adapter", str(base.output), str(run.output), "-o", str(merged)]) == 0
    assert Interpolator.load(merged, CPU).facts.thick_spacing == (2.0, 3.0)


def test_a_normalizer_keeps_both_its_heads(write_images: Callable[..., Path], run_of: RunOf) -> None:
    source = write_images("images.h5", 4, side=16)
    network = replace(test_normalizer_learner.NETWORK, in_channels=1, out_channels=1)
    options = test_normalizer_learner.options_of({"steps": 2}, network=network)
    base, run = (run_of("train-diffusion", source, name) for name in ("base.safetensors", "a.safetensors"))
    merged = adapter_of(base, run, options)
    assert merged.kind == "normalizer"
    assert NormalizerNetwork.load(merged.path, CPU).network.config.heads == ("diffusion", "flow")


def test_small_updates_under_bfloat16_are_kept(
    latents: Path, run_of: RunOf, small_diffusion: Callable[..., Any], reporter: Reporter
) -> None:
    loop = {"precision": "bfloat16", "learning_rate": 1e-6, "steps": 4, "ema": 0.0}
    base, run = (run_of("train-diffusion", latents, name) for name in ("base.safetensors", "a.safetensors"))
    train_diffusion(base, small_diffusion())
    options = replace(small_diffusion(loop), init=str(base.output), lora=LoraConfig(rank=2))
    train_diffusion(run, options)
    weights = open_model(run.output).weights()
    for name, weight in weights.items():
        assert weight.dtype == torch.float32
        if name.endswith(".up.weight"):
            assert 1e-6 < float(weight.abs().max()) < 1e-5
    assert any(told.startswith("trains ") for told in reporter.told)
