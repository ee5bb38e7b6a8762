"""What a set is: a header, then cases; a case is a stack of D slices whose arrays share the first axis.

| array      | shape        | meaning                                                              |
|------------|--------------|----------------------------------------------------------------------|
| image      | (D, C, H, W) | stored values; physical = stored * scale + offset, in `unit`         |
| latent     | (D, c, h, w) | unscaled VAE latents                                                 |
| mask       | (D, 1, H, W) | uint8 classes, named by the header's `mask_names`; 0: background     |
| vector     | (D, K)       | float32 conditions in [0, 1], named by the header's `vector_fields`  |
| label      | (D,)         | int64 class, an index into the header's `label_names` if it has them |
| normalized | (D, C, H, W) | the nearest normal version of image, in the same stored values       |
| map        | (D, 4, H, W) | float32 anomaly maps, named by `MAP_CHANNELS`                        |
| score      | (D,)         | float32, how anomalous the slice is as a whole                       |
| spread     | (D, C, H, W) | float16 or 32, deviation over the samples that image is the mean of  |
| quality    | (D,)         | float32, the rating from 1 to 5 that a selector expects for the case |
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from medgen.artifacts.latent_space import LatentSpace, Scale, Shift
from medgen.artifacts.provenance import Provenance
from medgen.artifacts.stacks import Placed, Stack, blocks, points
from medgen.errors import DataError

SET_SCHEMA = "medgen.set/2"
READABLE_SCHEMAS = ("medgen.set/1", SET_SCHEMA)
ARRAY_RANK = {
    "image": 4, "latent": 4, "mask": 4, "vector": 2, "label": 1, "normalized": 4, "map": 4, "score": 1,
    "spread": 4, "quality": 1,
}  # fmt: skip
MAP_CHANNELS = ("pixel", "gradient", "laplacian", "total")
TEXT_NAMES = ("text", "modality")
SLICE_FACTS = (*TEXT_NAMES, "origins", "filled")
"""Optional facts of a case, besides its arrays, that have one entry per slice."""
SPLITS = ("train", "val", "test")
NO_SPLIT = "none"
"""Split of generated cases: they are neither trained on nor tested on, unless the user puts them into a split."""
GENERATED = "generated"
"""A model made the case from noise: it shows no real patient."""
ALTERED = "altered"
"""A model has changed or added to a real case: it shows a patient, but not as measured."""
SPACING_NOTE = "spacing"
"""Note of a set whose generated cases have the spacing of the training cases; without it, 1 mm means no spacing."""
# Stored only where known, so that sets written before these facts existed can still be read and keep their digest.
LATER_FACTS: dict[str, Callable[[Any], Any]] = {
    "thickness": float, "frame": str, "flaws": str, "synthetic": str, "origins": points, "mended": str, "filled": tuple,
}  # fmt: skip

Array = npt.NDArray[Any]


class Intensity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How stored image values map to physical ones, and which of these the network sees.

    physical = stored * scale + offset; `window` = (low, high) in physical units maps to [-1, 1].
    """

    scale: float = 1.0
    offset: float = 0.0
    unit: str = "HU"
    window: tuple[float, float] = (-1000.0, 400.0)

    def normalized(self, stored: Array) -> npt.NDArray[np.float32]:
        """Stored values -> float32 in [-1, 1], clipped to the window; NaN for infinity, which is no brightness."""
        low, high = self.window
        gain = 2.0 * self.scale / (high - low)
        bias = 2.0 * (self.offset - low) / (high - low) - 1.0
        values = stored.astype(np.float32)
        values *= np.float32(gain)
        values += np.float32(bias)
        np.clip(values, -1.0, 1.0, out=values)
        if stored.dtype.kind == "f":
            values[np.isinf(stored)] = np.nan
        return values

    def physical(self, stored: Array) -> npt.NDArray[np.float32]:
        """Stored values -> float32 in `unit`."""
        return stored.astype(np.float32) * np.float32(self.scale) + np.float32(self.offset)

    def stored(self, normalized: Array, dtype: npt.DTypeLike) -> Array:
        """Values in [-1, 1] -> stored values of `dtype`, rounded; the inverse of `normalized` inside the window."""
        low, high = self.window
        physical = (np.clip(normalized, -1.0, 1.0).astype(np.float64) + 1.0) * 0.5 * (high - low) + low
        values = (physical - self.offset) / self.scale
        kind = np.dtype(dtype)
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            values = np.clip(np.rint(values), limits.min, limits.max)
        return values.astype(kind)


class SetHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for every case of a set. `notes` records how it was processed, for instance a background mask."""

    kind: Literal["image", "latent", "map"]
    provenance: Provenance
    intensity: Intensity | None = None
    vector_fields: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()  # of the classes 0, 1, ...; empty if they have no names
    mask_names: tuple[str, ...] = ()  # of a mask's values 0 (background), 1, ...; empty: 0 and 1 without names
    latent_scale: Scale = 1.0
    latent_shift: Shift = 0.0
    vae_digest: str = ""  # of the VAE that made or decodes the latents
    notes: dict[str, str] = {}
    schema: str = SET_SCHEMA

    @property
    def latent_space(self) -> LatentSpace:
        """What networks see of the set's latents."""
        return LatentSpace(self.latent_scale, self.latent_shift)

    def facts(self) -> dict[str, Any]:
        """The header as JSON values; empty `mask_names` are left out, as in sets written before the field existed."""
        facts: dict[str, Any] = msgspec.to_builtins(self)
        if not self.mask_names:
            del facts["mask_names"]
        return facts


@dataclass(frozen=True)
class Case(Placed):
    """D slices, in arrays that need not be in memory.

    `spacing` is (z, y, x) in mm; `origin` is the first voxel's centre in mm (LPS x, y, z);
    `direction` holds three unit vectors, of the z, y and x array axes, in LPS. `thickness` is the extent in mm that a
    slice averages over: more than the spacing where slices overlap, less where they leave gaps; 0 if it is not known,
    and then the spacing is used instead. `frame` names the frame of reference: positions of cases with the same one
    can be compared; "" if it is not known. `flaws` says why the slices are not evenly spaced along z ("uneven gaps",
    "gantry tilt", "shared positions", "no positions", "slices left out"); "" if they are. `synthetic` says that a
    model made the pixels, and how (`GENERATED`, `ALTERED`); "" if they are real. `origins` holds the centre of each
    slice's first voxel, if they are not all at origin + number * spacing; () if they are. `mended` names the flaws
    that resampling has mended, and `filled` says for each slice whether it was added where none was measured nearby;
    () if none was.
    """

    id: str
    arrays: Mapping[str, Stack]
    split: str = "train"
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0)
    text: tuple[str, ...] = ()
    modality: tuple[str, ...] = ()
    thickness: float = 0.0
    frame: str = ""
    flaws: str = ""
    synthetic: str = ""
    origins: tuple[tuple[float, float, float], ...] = ()
    mended: str = ""
    filled: tuple[bool, ...] = ()

    def __len__(self) -> int:
        """Number of slices, D."""
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, name: str) -> Array:
        """The array called `name`, in memory; DataError naming the case if it has none."""
        return np.asarray(self.stack(name))

    def stack(self, name: str) -> Stack:
        """The array called `name`, without reading it into memory; DataError naming the case if it has none."""
        try:
            return self.arrays[name]
        except KeyError:
            raise DataError(
                f"case {self.id}: has no '{name}' array (it has: {', '.join(sorted(self.arrays))})"
            ) from None

    def check(self) -> None:
        """Raise DataError unless the arrays agree in depth, rank and name."""
        if not self.arrays:
            raise DataError(f"case {self.id}: holds no array")
        if self.split not in (*SPLITS, NO_SPLIT):
            raise DataError(f"case {self.id}: split '{self.split}' is not one of {', '.join((*SPLITS, NO_SPLIT))}")
        if self.synthetic not in ("", GENERATED, ALTERED):
            raise DataError(f"case {self.id}: '{self.synthetic}' is neither {GENERATED} nor {ALTERED}")
        for name, array in self.arrays.items():
            if name not in ARRAY_RANK:
                raise DataError(f"case {self.id}: unknown array '{name}'")
            if array.ndim != ARRAY_RANK[name]:
                raise DataError(f"case {self.id}: '{name}' has shape {array.shape}, expected {ARRAY_RANK[name]} axes")
            if len(array) != len(self):
                raise DataError(f"case {self.id}: '{name}' has {len(array)} slices, expected {len(self)}")
        for name in SLICE_FACTS:
            values = getattr(self, name)
            if values and len(values) != len(self):
                raise DataError(f"case {self.id}: '{name}' has {len(values)} entries for {len(self)} slices")

    def facts(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON values."""
        return {
            "id": self.id,
            "split": self.split,
            "spacing": list(self.spacing),
            "origin": list(self.origin),
            "direction": list(self.direction),
            "text": list(self.text),
            "modality": list(self.modality),
            **{name: getattr(self, name) for name in LATER_FACTS if getattr(self, name)},
        }

    @staticmethod
    def of_facts(facts: Mapping[str, Any], arrays: Mapping[str, Stack]) -> Case:
        """The inverse of `facts`."""
        return Case(
            id=facts["id"],
            arrays=arrays,
            split=facts["split"],
            spacing=tuple(facts["spacing"]),
            origin=tuple(facts["origin"]),
            direction=tuple(facts["direction"]),
            text=tuple(facts["text"]),
            modality=tuple(facts["modality"]),
            **{name: kind(facts[name]) for name, kind in LATER_FACTS.items() if name in facts},
        )


class Tail(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known only at the end: counts, the content's digest, and the digests of all inputs by id."""

    cases: int
    slices: int
    digest: str
    inputs: dict[str, str]
    latent_mean: tuple[float, ...] = ()  # one per channel of a latent set, as a denoiser sees it
    latent_std: tuple[float, ...] = ()


def as_bytes(array: Array) -> memoryview:
    """The bytes of a contiguous array, without a copy; writable if the array is."""
    flat: Any = array.reshape(-1)
    return memoryview(flat).cast("B") if array.size else memoryview(b"")


class LatentStatistics:
    """Running mean and standard deviation of each channel of latents, scaled and shifted as a header says."""

    def __init__(self, header: SetHeader) -> None:
        self._space = header.latent_space
        self._count, self._sum, self._squares = 0, np.zeros(()), np.zeros(())

    def add(self, latents: Array) -> None:
        """Take in unscaled latents (D, c, h, w)."""
        scaled = self._space.seen(latents.astype(np.float64))
        self._count += scaled[:, 0].size
        self._sum = self._sum + scaled.sum(axis=(0, 2, 3))
        self._squares = self._squares + np.square(scaled).sum(axis=(0, 2, 3))

    def result(self) -> dict[str, tuple[float, ...]]:
        """Mean and standard deviation under their names in `Tail`; empty if there were no latents."""
        if not self._count:
            return {}
        mean = self._sum / self._count
        std = np.sqrt(np.maximum(self._squares / self._count - mean**2, 0.0))
        return {"latent_mean": tuple(mean.tolist()), "latent_std": tuple(std.tolist())}


class ContentDigest:
    """A running sha256 over header, cases and the digests of the inputs; equal for both encodings of a set."""

    def __init__(self, header: SetHeader) -> None:
        self.cases = 0
        self.slices = 0
        self._latents = LatentStatistics(header)
        self._old = header.schema != SET_SCHEMA
        facts = header.facts()
        if not header.label_names:  # so that sets written before names existed keep their digest
            del facts["label_names"]
        self._hash = hashlib.sha256(msgspec.json.encode(facts, order="sorted"))

    def add(self, case: Case) -> None:
        """Take in one case."""
        self.cases += 1
        self.slices += len(case)
        if "latent" in case.arrays:
            self._latents.add(case["latent"])
        facts = case.facts()
        if self._old:  # such sets did not store it per case; their reader infers it
            facts.pop("synthetic", None)
        self._hash.update(msgspec.json.encode(facts, order="sorted"))
        for name in sorted(case.arrays):
            stack = case.arrays[name]
            self._hash.update(f"{name}{stack.dtype.str}{stack.shape}".encode())
            for block in blocks(stack):
                self._hash.update(as_bytes(block))

    def tail(self, inputs: Mapping[str, str]) -> Tail:
        """The tail, once all cases have been added."""
        whole = self._hash.copy()
        whole.update(msgspec.json.encode(inputs, order="sorted"))
        statistics = self._latents.result()
        return Tail(self.cases, self.slices, whole.hexdigest(), dict(sorted(inputs.items())), **statistics)
