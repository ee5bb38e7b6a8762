"""The modality of an image, fused with the text that describes it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medgen.nets.options import Fusion
from medgen.nets.text.encoder import TextStates

UNSAID = 0
"""Number of the modality "not said"; those with names count from 1."""


def with_new_modalities(weights: Mapping[str, Tensor], modalities: int) -> dict[str, Tensor]:
    """Weights of a UNet for more modalities: each new one begins as "not said", and those before stay as they are."""
    grown = dict(weights)
    for name in ("modality.tokens.weight", "modality.pooled.weight"):
        if name in grown:
            rows = grown[name]
            new = rows[UNSAID : UNSAID + 1].expand(modalities + 1 - len(rows), -1)
            grown[name] = torch.cat([rows, new])
    return grown


class ModalityFusion(nn.Module):
    """An embedding of each modality, fused with the states of a text; at first it changes nothing.

    "product": W (m * s) + b, the Hadamard product of the embedding m and the state s, and a projection that begins as
    the identity. "concat": W [s, m] + b, which begins as s.
    """

    def __init__(self, modalities: int, widths: tuple[int, int], fusion: Fusion) -> None:
        super().__init__()
        self.fusion = fusion
        self.tokens = nn.Embedding(modalities + 1, widths[0])
        self.pooled = nn.Embedding(modalities + 1, widths[1]) if widths[1] else None
        for embedding in filter(None, (self.tokens, self.pooled)):
            if fusion == "product":
                nn.init.ones_(embedding.weight)
        self.mix_tokens = self._mix(widths[0])
        self.mix_pooled = self._mix(widths[1]) if widths[1] else None

    def _mix(self, width: int) -> nn.Linear:
        mix = nn.Linear(width if self.fusion == "product" else 2 * width, width)
        nn.init.zeros_(mix.bias)
        nn.init.zeros_(mix.weight)
        with torch.no_grad():
            mix.weight[:, :width] = torch.eye(width)
        return mix

    def forward(self, states: TextStates, modality: Tensor) -> TextStates:
        """Fuse the states of a batch of texts with its modalities (B,), numbered from 1, or `UNSAID`."""
        tokens = self._fused(states.tokens, self.tokens(modality)[:, None], self.mix_tokens)
        if states.pooled is None or self.pooled is None or self.mix_pooled is None:
            return states._replace(tokens=tokens)
        pooled = self._fused(states.pooled, self.pooled(modality), self.mix_pooled)
        return states._replace(tokens=tokens, pooled=pooled)

    def _fused(self, states: Tensor, embedding: Tensor, mix: nn.Linear) -> Tensor:
        if self.fusion == "product":
            out: Tensor = mix(states * embedding)
            return out
        joined: Tensor = mix(torch.cat([states, embedding.expand_as(states)], dim=-1))
        return joined
