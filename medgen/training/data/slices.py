"""Slices of a stored set as batches of network values, read at random."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch

from medgen.artifacts.label_maps import mask_names, one_hot
from medgen.artifacts.schema import TEXT_NAMES, Array
from medgen.artifacts.stored import CaseRow, StoredSet
from medgen.errors import DataError
from medgen.models.facts import Range
from medgen.models.text.prompts import Prompts
from medgen.prompts.variation import Variation
from medgen.training.data.options import Balance
from medgen.training.data.sampler import Sampler
from medgen.training.data.step import Batch

MASK_AREA = "mask_area"
StoredType = Literal["int16", "uint8", "uint16", "float32"]


class BatchSource(Protocol):
    """Where the loop gets its batches from."""

    def __len__(self) -> int:
        """Number of different samples."""

    def at(self, positions: Sequence[int]) -> Batch:
        """The samples at these positions of the training, stacked, on the CPU."""

    def told(self, positions: Sequence[int]) -> list[str]:
        """What each of these samples is asked to show, in words; "" where nothing is."""

    def faulty(self, positions: Sequence[int]) -> str | None:
        """A readable location of the first value that is not finite; None if all are finite."""


class Slices:
    """The slices of one split in a sampler's order: `x` (B, C, H, W) and, where the set has it, `vector` (B, K).

    `x` is the network's input: the image in [-1, 1], or the latent shifted and scaled as the header says. Only the
    slices of the split that `among` (slices of the set,) marks are used. `masks` adds `mask` (B, M, H, W), with a
    channel for each class but the background; `prompts` adds what it reads of the texts and modalities of the slices,
    whose texts are varied by `variation` as their position in the training says.
    """

    def __init__(
        self,
        stored: StoredSet,
        split: str,
        seed: int,
        balance: Balance | None = None,
        among: npt.NDArray[np.bool_] | None = None,
        *,
        masks: bool = False,
        prompts: Prompts | None = None,
        variation: Variation | None = None,
    ) -> None:
        self._stored = stored
        self._masks = masks
        self._prompts = prompts
        self._variation = variation
        self._rows = rows_of(stored, split)
        samples = np.concatenate([np.arange(row.start, row.start + row.count) for row in self._rows])
        if among is not None:
            samples = samples[among[samples]]
        self.samples = samples.astype(np.int64)
        self._vectors = stored.column("vector").astype(np.float32) if stored.has("vector") else None
        group, fraction = np.ones(len(samples), dtype=bool), 1.0
        if balance is not None:
            group, fraction = self._group(balance), balance.fraction
            if group.all() or not group.any():
                limit = "" if balance.at_most is None else f" and at most {balance.at_most:g}"
                raise DataError(
                    f"split '{split}': '{balance.field}' is {'always' if group.all() else 'never'} above 0{limit}, so "
                    "the samples cannot be balanced by it; leave out the balance options"
                )
        self.sampler = Sampler(self.samples, seed, group=group, fraction=fraction)

    def __len__(self) -> int:
        return len(self.samples)

    def at(self, positions: Sequence[int]) -> Batch:
        """The samples at these positions of the training."""
        return self.read(self.sampler[positions], positions)

    def read(self, samples: Sequence[int] | npt.NDArray[np.int64], positions: Sequence[int] | None = None) -> Batch:
        """Slices of the set by number; `positions` are those of the training, for which texts are varied."""
        batch = {"x": torch.from_numpy(self._network_values(samples))}
        if self._vectors is not None:
            batch["vector"] = torch.from_numpy(self._vectors[samples])
        if self._masks:
            names = mask_names(self._stored.header)
            batch["mask"] = torch.from_numpy(one_hot(self._stored.read("mask", samples), names))
        if self._prompts is not None:
            texts, modalities = (self._texts(name, samples) for name in TEXT_NAMES)
            if self._variation is not None and positions is not None:
                texts = [self._variation.at(text, place) for text, place in zip(texts, positions, strict=True)]
            batch |= self._prompts.read(texts, modalities)
        return batch

    def told(self, positions: Sequence[int]) -> list[str]:
        """The text of each slice, or the numbers of its vector that are not 0."""
        samples, fields = self.sampler[positions], self._stored.header.vector_fields
        texts = self._texts("text", samples)
        if any(texts) or self._vectors is None:
            return texts
        rows = (zip(fields, self._vectors[sample].tolist(), strict=True) for sample in samples)
        return [" ".join(f"{name} {value:.2g}" for name, value in row if value) for row in rows]

    def faulty(self, positions: Sequence[int]) -> str | None:
        """Name the first slice among these that holds a value that is not finite."""
        for sample in self.sampler[positions]:
            for name, values in self.read([int(sample)]).items():
                if not torch.isfinite(values).all():
                    row = next(row for row in self._rows if row.start <= sample < row.start + row.count)
                    what = name if name != "x" else self._stored.header.kind
                    return f"slice {sample - row.start} of case {row.id} holds {what} values that are not finite"
        return None

    def _texts(self, name: str, samples: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
        return self._stored.texts(name, samples) if self._stored.has(name) else [""] * len(samples)

    def _network_values(self, samples: Sequence[int] | npt.NDArray[np.int64]) -> Array:
        header = self._stored.header
        if header.kind == "image":
            if header.intensity is None:
                raise DataError("the set does not say what its image values mean (no intensity); preprocess it again")
            return header.intensity.normalized(self._stored.read("image", samples))
        return header.latent_space.seen(self._stored.read("latent", samples).astype(np.float32))

    def _group(self, balance: Balance) -> npt.NDArray[np.bool_]:
        values = self._values(balance.field)
        most = np.inf if balance.at_most is None else balance.at_most
        inside: npt.NDArray[np.bool_] = (values > 0) & (values <= most)
        return inside

    def _values(self, field: str) -> Array:
        """The value of `field` that splits samples into two groups, (N,)."""
        fields = self._stored.header.vector_fields
        if self._vectors is not None and field in fields:
            values: Array = self._vectors[self.samples, fields.index(field)]
            return values
        if field == MASK_AREA:
            if not self._stored.has("mask"):
                raise DataError(f"cannot balance by '{MASK_AREA}': the set has no masks; preprocess it with --masks")
            return np.array([np.mean(self._stored.read("mask", [sample]) > 0) for sample in self.samples])
        raise DataError(
            f"cannot balance by '{field}': the set has "
            + (f"the vector fields {', '.join(fields)}" if fields else "no vectors; label it in preprocess")
        )


def has_split(stored: StoredSet, split: str) -> bool:
    """Whether the set holds a slice of this split."""
    return any(row.split == split and row.count for row in stored.cases)


def rows_of(stored: StoredSet, split: str) -> list[CaseRow]:
    """The cases of a split; DataError if it has none."""
    rows = [row for row in stored.cases if row.split == split and row.count]
    if not rows:
        held = ", ".join(sorted({row.split for row in stored.cases})) or "no case at all"
        raise DataError(f"the set has no '{split}' split (it holds: {held}); preprocess it with one")
    return rows


def taken_part(stored: StoredSet) -> dict[str, Any]:
    """For the provenance of what is trained on synthetic cases too: how many of each kind, and a digest of the ids."""
    rows = [row for row in stored.cases if row.split == "train" and row.count]
    if not any(row.synthetic for row in rows):
        return {}  # the set's digest says it all
    counts = Counter(row.synthetic or "real" for row in rows)
    digest = hashlib.sha256("\n".join(sorted(row.id for row in rows)).encode()).hexdigest()[:16]
    return {"trained_on": {**dict(sorted(counts.items())), "cases": digest}}


def common_spacing(stored: StoredSet) -> tuple[float, float, float] | None:
    """The spacing (z, y, x) in mm that all training cases share; None if they do not."""
    spacings = {row.spacing for row in rows_of(stored, "train")}
    return spacings.pop() if len(spacings) == 1 else None


def spacing_range(stored: StoredSet) -> tuple[Range, Range, Range]:
    """The least and the greatest spacing of the training cases along z, y and x, in mm."""
    z, y, x = ((min(axis), max(axis)) for axis in zip(*(row.spacing for row in rows_of(stored, "train")), strict=True))
    return z, y, x


def vector_range(stored: StoredSet) -> tuple[Range, ...]:
    """The least and the greatest value of each vector field in training; () without vectors."""
    if not stored.has("vector"):
        return ()
    slices = np.concatenate([np.arange(row.start, row.start + row.count) for row in rows_of(stored, "train")])
    vectors = stored.column("vector")[slices]
    return tuple((float(values.min()), float(values.max())) for values in vectors.T)


def stored_type(dtype: np.dtype[Any]) -> StoredType:
    """The name of an image set's value type; DataError if generated images could not be stored in it."""
    for name in get_args(StoredType):
        if dtype == np.dtype(name):
            return name  # type: ignore[no-any-return]
    raise DataError(f"images of type {dtype} cannot be trained on; store them as {', '.join(get_args(StoredType))}")
