"""Text encoders of the library transformers, as modules without their tokenizer."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medgen.errors import ConfigError, UnavailableError
from medgen.nets.options import OutsideTextConfig
from medgen.nets.text.encoder import TextStates, mean_state

CLIP = ("clip", "clip_text_model")
"""Types of models of which the text part is taken; its pooled state is that of the end of the text."""


class OutsideEncoder(nn.Module):
    """A model of the BERT family, whose pooled state is the mean of the last ones, or the text encoder of a CLIP.

    Heads for other tasks are left out, those that sum up a text included: checkpoints often hold none, and an untrained
    one would be worth nothing.
    """

    def __init__(self, config: OutsideTextConfig) -> None:
        super().__init__()
        with torch.device("cpu"):  # its buffers, such as places, are in no file, and must not be made without values
            self.model = build(config.settings)
        self.clip = config.settings["model_type"] in CLIP

    def forward(self, words: Tensor, real: Tensor | None = None) -> TextStates:
        """Read words (B, L), ids of its own tokenizer; real (B, L) bool, False = padding."""
        found = self.model(input_ids=words, attention_mask=None if real is None else real.long())
        states: Tensor = found.last_hidden_state
        return TextStates(states, found.pooler_output if self.clip else mean_state(states, real))


def build(settings: Mapping[str, Any]) -> nn.Module:
    """The encoder that a configuration of transformers describes, with random weights."""
    library = transformers()
    try:
        config = library.AutoConfig.for_model(**settings)
    except (ValueError, TypeError, KeyError) as error:
        told = str(error).splitlines()[0]
        raise ConfigError(f"transformers {library.__version__} does not know this text encoder ({told})") from None
    if settings["model_type"] in CLIP:
        part = config if settings["model_type"] == CLIP[1] else config.text_config
        clip: nn.Module = library.CLIPTextModel(part)
        return clip
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(f"a model of type {config.model_type} has a decoder; give one that encodes alone")
    network: nn.Module = without_pooling(partial(library.AutoModel.from_config, config))
    return network


def without_pooling(make: Callable[..., Any]) -> Any:
    """The model that `make` makes, without the layer that sums up a text if its family has one."""
    try:
        return make(add_pooling_layer=False)
    except TypeError:
        return make()


def transformers() -> Any:
    """The library; UnavailableError without it, or if it does not take this torch."""
    try:
        library: Any = importlib.import_module("transformers")
    except ImportError:
        raise UnavailableError("transformers is not installed; pip install 'medgen[text]'") from None
    if not library.is_torch_available():
        raise UnavailableError(
            f"transformers {library.__version__} needs a newer torch than {torch.__version__}; pip install -U torch"
        )
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library


def rows_encoded(encoder: OutsideEncoder, words: Tensor, real: Tensor) -> TextStates:
    """States of words (B, L) without gradients, with the same bits for a text in any batch.

    They are those of the weights' type even inside a training's autocast, since they may be kept for later.
    """
    missing = -len(words) % ROWS
    padded = [torch.cat([part, part[-1:].expand(missing, -1)]) if missing else part for part in (words, real)]
    with torch.inference_mode(), torch.autocast(words.device.type, enabled=False):
        tokens, pooled, _ = encoder(*padded)
    return TextStates(tokens[: len(words)], pooled[: len(words)])


ROWS = 4
"""In batches of a multiple of this, CPU kernels give a row the same bits in any batch; see `models/trained.py`."""
