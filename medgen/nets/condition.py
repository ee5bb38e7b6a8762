"""The condition of a network as tensors: one object, whatever its parts are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from medgen.errors import DataError

OF_TEXT = ("words", "tokens", "token_mask")
"""The parts that have an axis of words."""


@dataclass(frozen=True)
class Condition:
    """What each sample of a batch should show; a part that is None is not conditioned on.

    "No condition" (null) is an input of its own, which a network learns for classifier-free guidance.
    """

    vector: Tensor | None = None
    """(B, K), numbers in [0, 1]."""
    mask: Tensor | None = None
    """(B, M, H, W), 1 where a pixel belongs to class k + 1 and 0 elsewhere; background has no channel."""
    hint: Tensor | None = None
    """(B, width, h, w), the UNet's features of the mask, made once for many calls; see `UNet.prepared`."""
    words: Tensor | None = None
    """(B, L) int64, ids of the pieces of words that the built-in encoder reads; 0 is padding."""
    tokens: Tensor | None = None
    """(B, L, context_width), one row per piece: states of an encoder, or made once from words; see `UNet.prepared`."""
    token_mask: Tensor | None = None
    """(B, L) bool, False where words or tokens are padding; None = all are real."""
    pooled: Tensor | None = None
    """(B, pooled_width), of each text as a whole."""
    direct: Tensor | None = None
    """(B, time_width), what the words add to the embedding of the time; made from them, see `UNet.prepared`."""
    modality: Tensor | None = None
    """(B,) int64, numbered from 1; 0 = not said."""
    present: Tensor | None = None
    """(B,) bool: whether the condition applies; False = null for all parts of the sample. None = it applies to all."""

    def __len__(self) -> int:
        """Samples of the batch; 0 where the condition has no part."""
        return next((len(part) for part in self._given().values()), 0)

    def each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """The condition with `change` applied to each of its tensors."""
        return Condition(**{name: change(part) for name, part in self._given().items()})

    def to(self, device: torch.device) -> Condition:
        """The condition on `device`."""
        return self.each(lambda part: part.to(device))

    def of(self, rows: Tensor | slice) -> Condition:
        """The condition of these samples of the batch, by number."""
        return self.each(lambda part: part[rows])

    def dropped(self, present: Tensor) -> Condition:
        """The condition, made null where `present` (B,) bool is False."""
        before = self.present
        both = present if before is None else before & present
        return Condition(**{**self._given(), "present": both})

    def null(self) -> Condition:
        """The null condition for every sample of the batch, in the same shapes, so that it can be joined with this."""
        given = self._given()
        if not given:
            return self
        first = next(iter(given.values()))
        return self.dropped(torch.zeros(len(first), dtype=torch.bool, device=first.device))

    def joined(self, other: Condition) -> Condition:
        """Both batches as one, for guidance by one call of the network; both must have the same parts."""
        ours, theirs = self._counted(), other._counted()
        if ours.keys() != theirs.keys():
            raise DataError(
                f"a condition of {', '.join(ours) or 'nothing'} cannot be joined with one of "
                f"{', '.join(theirs) or 'nothing'}; give both the same parts"
            )
        return Condition(**{name: _stacked(name, part, theirs[name]) for name, part in ours.items()})

    def _given(self) -> dict[str, Tensor]:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in parts.items() if part is not None}

    def _counted(self) -> dict[str, Tensor]:
        """The tensors, with `present` and the mask of a text filled in where they are None."""
        given = self._given()
        if given and self.present is None:
            first = next(iter(given.values()))
            given["present"] = torch.ones(len(first), dtype=torch.bool, device=first.device)
        text = given.get("words", given.get("tokens"))
        if text is not None and self.token_mask is None:
            given["token_mask"] = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        return given


def _stacked(name: str, part: Tensor, other: Tensor) -> Tensor:
    """Both batches of a part; of two texts, the shorter ones are padded to the length of the longer."""
    if name in OF_TEXT:
        length = max(part.shape[1], other.shape[1])
        part, other = (F.pad(one, (0, 0) * (one.ndim - 2) + (0, length - one.shape[1])) for one in (part, other))
    return torch.cat([part, other])


NOTHING = Condition()
"""No condition for any sample."""
