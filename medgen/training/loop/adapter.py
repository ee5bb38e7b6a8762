"""Training an adapter in place of a whole network: what it begins from, what it saves in memory, what is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec.structs import replace
from torch import nn

from medgen.errors import ConfigError
from medgen.models.adapters import KIND
from medgen.models.facts import AdapterFacts, Facts
from medgen.models.trained import FactsT
from medgen.nets.lora.four_bit import in_four_bits, quantize, size_of
from medgen.nets.lora.low_rank import adapt, changes_of, merged, of_changes
from medgen.nets.lora.parts import layers_in, layers_of
from medgen.nets.options import LoraConfig, UNetConfig
from medgen.nets.unet import UNet
from medgen.reporting import Reporter
from medgen.training.data.step import seeded
from medgen.training.loop.init import InitialWeights, check_like
from medgen.training.loop.options import LoopOptions
from medgen.training.loop.run import Fitted, Training

FLOAT = 4
"""Bytes of a float32."""


class Tuned(Protocol):
    """Options of a training that can be one of an adapter."""

    @property
    def lora(self) -> LoraConfig | None:
        """The adapter; None: the network itself is trained."""

    @property
    def loop(self) -> LoopOptions:
        """How it is trained."""

    @property
    def seed(self) -> int:
        """Seed of everything random."""


INHERITED = ("guidance", "guidance_range")
"""Facts that hold until a search finds others."""


def begin(
    network: UNet, options: Tuned, base: InitialWeights[UNetConfig] | None, facts: FactsT, reporter: Reporter
) -> FactsT:
    """Give `network` the weights of the model `base` if there is one, and an adapter if the options have one.

    `facts` are those of the model that is trained, or of `base` with the adapter; for the latter they are returned with
    the guidance that suits `base`. DataError if the training is not one of such a model.
    """
    if base is None:
        return facts
    if options.lora is None:
        base.fill(network)
        return facts
    check_like(base.path, base.config, base.facts, network.config, facts)
    base.fill(network)
    size = size_of(network)
    attach(network, options.lora, options.seed)
    reporter.say(told(network, size, options.loop))
    known = type(facts).read(base.facts, str(base.path))
    return replace(facts, **{name: getattr(known, name) for name in INHERITED if hasattr(known, name)})


def attach(network: nn.Module, lora: LoraConfig, seed: int) -> None:
    """Freeze a network, in 4 bits if `lora` says so, and give it an adapter, which alone is trained."""
    with seeded(seed, "adapter"):
        adapt(network, layers_of(network, lora.parts), lora.rank, lora.scale)
    if lora.four_bit:
        quantize(network)


def tune_text(network: UNet, options: Tuned, reporter: Reporter) -> None:
    """Freeze the text encoder of a network, and give each of its layers a low-rank change, which is trained along."""
    if network.text is None:
        raise TypeError("the network has no text encoder to tune")
    size, lora = size_of(network.text), LoraConfig()
    with seeded(options.seed, "adapter"):
        adapt(network.text, layers_in(network.text), lora.rank, lora.scale)
    reporter.say(f"of the text encoder, {told(network.text, size, options.loop)}")


def train_only(network: UNet, parts: Sequence[str], base: InitialWeights[UNetConfig] | None) -> None:
    """Freeze a network but for its layers of these parts; ConfigError without a trained network to keep."""
    if base is None:
        raise ConfigError("--train-parts keeps the rest of a trained model unchanged; name it with --init")
    network.requires_grad_(False)
    for name in layers_of(network, parts):
        network.get_submodule(name).requires_grad_(True)


def told(network: nn.Module, before: int, options: LoopOptions) -> str:
    """How many parameters are trained, and the memory for that beside the memory for training the whole network.

    `before`: bytes of the network's float32 weights before it got its adapter.
    """
    own = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    base, each = before // FLOAT, bytes_to_train(options)
    held = size_of(network) - own * FLOAT
    in_four_bits = f"; the frozen weights take {_size(held)} instead of {_size(before)}" if held < before else ""
    return (
        f"trains {own:,} parameters in {len(changes_of(network))} layers and keeps {base:,} as they are: gradients, "
        f"moments of the optimizer{' and averages' * bool(options.ema)} take {_size(own * each)} instead of "
        f"{_size(base * each)}{in_four_bits}"
    )


def bytes_to_train(options: LoopOptions) -> int:
    """Bytes that a trained weight takes beside itself: gradient, two moments, moving average."""
    return FLOAT * (1 + 2 + bool(options.ema))


def save(
    training: Training,
    fitted: Fitted,
    options: Tuned,
    base: InitialWeights[UNetConfig] | None,
    kind: str,
    network: UNetConfig,
    facts: Facts,
) -> None:
    """Write the model of `kind` that was trained, or the adapter alone; `facts` as in `begin`."""
    if options.lora is None or base is None:
        scales = {name: change.scale for name, change in changes_of(fitted.loop.learner.model).items()}
        training.save(fitted, kind, network, facts, fitted.figures, part=lambda weights: merged(weights, scales))
        return
    four_bit = in_four_bits(fitted.loop.learner.model)
    of_base = AdapterFacts(kind, base.digest, msgspec.to_builtins(facts), four_bit)
    training.save(fitted, KIND, options.lora, of_base, fitted.figures, part=of_changes)


def _size(number: float) -> str:
    """Bytes in words, to three digits."""
    power = min(int(math.log(max(number, 1), 1024)), 3)
    return f"{number / 1024**power:.3g} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"
