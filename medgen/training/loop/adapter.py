"""Training an adapter in place of a whole network: what it begins from, what it saves in memory, what is written."""

from __future__ import annotations

import math

import msgspec
from msgspec.structs import replace
from torch import nn

from medgen.config import OptionsT, convert
from medgen.diffusion.options import ScheduleConfig
from medgen.errors import ConfigError
from medgen.models.adapters import KIND
from medgen.models.facts import AdapterFacts, Facts
from medgen.models.trained import FactsT
from medgen.nets.lora.four_bit import FourBit, quantize, size_of
from medgen.nets.lora.low_rank import adapt, changes_of, of_changes
from medgen.nets.lora.parts import layers_of
from medgen.nets.options import LoraConfig, UNetConfig
from medgen.nets.unet import UNet
from medgen.reporting import Reporter
from medgen.training.data.step import seeded
from medgen.training.loop.init import InitialWeights, check_like
from medgen.training.loop.options import TrainingOptions
from medgen.training.loop.run import Fitted, Training

FLOAT = 4
"""Bytes of a float32."""
INHERITED = ("guidance", "guidance_range")
"""Facts that hold until a search finds others."""


def as_base(options: OptionsT, base: InitialWeights[UNetConfig] | None) -> OptionsT:
    """The options of a training of an adapter: what is left at its default is as in the model that it belongs to."""
    if base is None:
        raise ConfigError("--lora tunes a trained model and keeps it as it is; name that with --init")
    theirs = {
        "network": base.config,
        "schedule": convert(ScheduleConfig, base.facts["schedule"], str(base.path)),
        "objective": base.facts["objective"],
    }
    default = type(options)()
    return replace(
        options, **{name: one for name, one in theirs.items() if getattr(options, name) == getattr(default, name)}
    )


def begin(
    network: UNet,
    lora: LoraConfig,
    base: InitialWeights[UNetConfig],
    facts: FactsT,
    options: TrainingOptions,
    reporter: Reporter,
) -> FactsT:
    """Give `network` the weights of the model `base` and an adapter, which alone is trained; tell what that saves.

    `facts` are those of the model with the adapter; they are returned with the guidance that suits its model.
    DataError if the training is not one of such a model.
    """
    check_like(base.path, base.config, base.facts, network.config, facts)
    base.fill(network)
    size = size_of(network)
    with seeded(options.seed, "adapter"):
        adapt(network, layers_of(network, lora.parts), lora.rank, lora.scale)
    if lora.four_bit:
        quantize(network)
    reporter.say(told(network, size, options))
    known = type(facts).read(base.facts, str(base.path))
    return replace(facts, **{name: getattr(known, name) for name in INHERITED if hasattr(known, name)})


def told(network: nn.Module, before: int, options: TrainingOptions) -> str:
    """How many parameters are trained, and the memory for that beside the memory for training the whole network.

    `before`: bytes of the network's float32 weights before it got its adapter.
    """
    own = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    base, each = before // FLOAT, bytes_to_train(options)
    held = size_of(network) - own * FLOAT
    in_four_bits = f"; the frozen weights take {_size(held)} instead of {_size(before)}" if held < before else ""
    return (
        f"trains {own:,} parameters in {len(changes_of(network))} layers and keeps {base:,} as they are: gradients, "
        f"moments of the optimizer{' and averages' * bool(options.loop.ema)} take {_size(own * each)} instead of "
        f"{_size(base * each)}{in_four_bits}"
    )


def bytes_to_train(options: TrainingOptions) -> int:
    """Bytes that a trained weight takes beside itself: gradient, two moments, moving average."""
    return FLOAT * (1 + 2 + bool(options.loop.ema))


def save_adapter(
    training: Training, fitted: Fitted, lora: LoraConfig, base: InitialWeights[UNetConfig], kind: str, facts: Facts
) -> None:
    """Write the adapter of a model of `kind` alone; `facts` are those of the model with it."""
    layers = fitted.loop.learner.model.named_modules()
    four_bit = tuple(name for name, layer in layers if isinstance(layer, FourBit))
    of_base = AdapterFacts(kind, base.digest, msgspec.to_builtins(facts), four_bit)
    training.save(fitted, KIND, lora, of_base, fitted.figures, part=of_changes)


def _size(number: float) -> str:
    """Bytes in words, to three digits."""
    power = min(int(math.log(max(number, 1), 1024)), 3)
    return f"{number / 1024**power:.3g} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"
