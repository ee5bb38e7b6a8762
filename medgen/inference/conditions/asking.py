"""The conditions requested from `generate`: by options, by rows of a CSV file, or like those of a set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medgen.artifacts.provenance import Identified
from medgen.artifacts.sets import open_set
from medgen.errors import DataError, UsageError
from medgen.imaging.masks.warping import WarpRange
from medgen.inference.conditions.masks import (
    AskedMasks,
    Augmentation,
    MaskOrigin,
    ModelMasks,
    inspect,
    masks_in_csv,
    masks_in_files,
    masks_of_set,
    messages,
)
from medgen.inference.conditions.requests import Requests
from medgen.inference.conditions.vectors import Vectors, parse_vector, read_csv, slices_like, spread_order, vectors_like
from medgen.models.trained import Denoiser
from medgen.reporting import Reporter

PLACE_FIELDS = ("x", "y", "size")
"""Fields of vectors that speak of places in the image."""


@dataclass(frozen=True)
class Asked:
    """The command line's values as typed; None: not given."""

    count: int | None = None
    vector: str | None = None
    conditions: Path | None = None
    like: Path | None = None
    like_split: str | None = None
    mask: Path | None = None
    mask_augment: bool = False
    unconditional: bool = False
    negative_vector: str | None = None

    @contextlib.contextmanager
    def requests(self, model: Denoiser, seed: int, reporter: Reporter) -> Iterator[tuple[Requests, list[Identified]]]:
        """The requests for samples of `model`, and the sets they were taken from, which stay open for their masks.

        UsageError for options that contradict each other or do not fit the model, else DataError.
        """
        wanted = mask_of(model)
        self._check(model, wanted)
        fields = model.facts.vector_fields
        vectors: Vectors | None = None
        origins: Sequence[MaskOrigin] = ()
        inputs: list[Identified] = []
        with contextlib.ExitStack() as stack:
            if self.vector is not None:
                vectors = parse_vector(self.vector, fields)[None]
            if self.mask is not None and wanted:
                origins = masks_in_files(self.mask, wanted)
            if self.conditions is not None:
                origins = masks_in_csv(self.conditions, wanted) if wanted else ()
                vectors = read_csv(self.conditions, fields, masks=wanted is not None)
            if self.like is not None:
                stored = stack.enter_context(open_set(self.like, random_access=True))
                inputs.append(stored)
                slices = slices_like(stored, self.like_split)
                vectors = vectors_like(stored, fields, slices) if fields else None
                origins = masks_of_set(stored, slices, wanted, str(self.like)) if wanted else ()
            given = max(len(origins), 0 if vectors is None else len(vectors))
            order = spread_order(given, self.count) if given else range(self.count or 1)
            if vectors is not None:
                vectors = vectors[order if len(vectors) == given else [0] * len(order)]
            masks = self._masks(origins, wanted, [int(one) for one in order], reporter) if wanted and origins else None
            if masks and self.mask_augment:
                masks = replace(masks, augmentation=Augmentation(self._limits(model, reporter), seed))
            negative = None
            if self.negative_vector is not None:
                negative = parse_vector(self.negative_vector, fields, "--negative-vector")
            yield Requests(len(order), vectors, masks, negative), inputs

    def _masks(
        self, origins: Sequence[MaskOrigin], wanted: ModelMasks, order: list[int], reporter: Reporter
    ) -> AskedMasks:
        found = inspect(origins, wanted)
        said, warned = messages(found, wanted)
        for message in said:
            reporter.say(message)
        for message in warned:
            reporter.warn(message)
        return AskedMasks(origins, wanted, order, found.digest)

    def _limits(self, model: Denoiser, reporter: Reporter) -> WarpRange:
        """How far masks may be warped: they are mirrored where the training images were."""
        flip = bool(model.model.provenance.steps[-1].config.get("flip", False))
        if not flip:
            reporter.say("masks are not mirrored, because the model was not trained with flip")
        return WarpRange(flip=flip)

    def _check(self, model: Denoiser, wanted: ModelMasks | None) -> None:
        """UsageError unless the options fit each other and the model."""
        path, fields = model.model.path, model.facts.vector_fields
        given = {"--vector": self.vector, "--conditions": self.conditions, "--like": self.like, "--mask": self.mask}
        named = [name for name, value in given.items() if value is not None]
        if len(named) + self.unconditional > 1 and (named != ["--vector", "--mask"] or self.unconditional):
            also = " and --unconditional" * self.unconditional
            raise UsageError(f"{' and '.join(named)}{also} exclude each other; give one")
        if self.like_split is not None and self.like is None:
            raise UsageError("--like-split needs --like")
        of_vectors = ["--vector"] * (self.vector is not None) + ["--negative-vector"] * (
            self.negative_vector is not None
        )
        if named and not fields and not wanted:
            raise UsageError(f"{path} was trained without conditions; leave out {named[0]}")
        if of_vectors and not fields:
            told = "conditions" if not wanted else "condition vectors"
            raise UsageError(f"{path} was trained without {told}; leave out {of_vectors[0]}")
        if self.negative_vector is not None and not named:
            raise UsageError(
                "--negative-vector needs a condition to lead towards; give --vector, --conditions or --like"
            )
        if wanted is None and (self.mask is not None or self.mask_augment):
            option = "--mask" if self.mask is not None else "--mask-augment"
            raise UsageError(f"{path} was trained without masks; leave out {option}")
        if wanted and not self.unconditional and named in ([], ["--vector"]):
            raise UsageError(
                f"{path} draws what a mask shows; give --mask, --like, or --conditions with a column mask "
                "(--unconditional for images of no mask)"
            )
        if self.mask_augment and self.unconditional:
            raise UsageError("--mask-augment and --unconditional exclude each other; give one")
        if self.mask_augment and named != ["--mask"] and set(PLACE_FIELDS) & set(fields):
            told = ", ".join(name for name in fields if name in PLACE_FIELDS)
            raise UsageError(
                f"{path} has places in its vectors ({told}), which would not move with the mask; leave out "
                "--mask-augment"
            )


def mask_of(model: Denoiser) -> ModelMasks | None:
    """The masks that a model takes, or None if it takes none. DataError if its file does not say which."""
    side = model.network.config.side
    if side is None:
        return None
    names = model.facts.mask_names
    if len(names) != side.classes + 1:
        told = f"names {len(names)} classes of masks and takes {side.classes + 1}"
        raise DataError(f"{model.model.path}: {told}; train it again")
    _, height, width = model.facts.shape
    return ModelMasks(names, (height * side.factor, width * side.factor))
