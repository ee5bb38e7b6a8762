"""The conditions requested from `generate`: by options, by rows of a CSV file, or like those of a set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from medgen.artifacts.provenance import Identified
from medgen.artifacts.sets import open_set
from medgen.errors import DataError, UsageError
from medgen.imaging.masks.warping import WarpRange
from medgen.inference.conditions.fields import AskedFields
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
from medgen.inference.conditions.retrieval import DEFAULT_STRENGTH, Lent, Retrieval, Retrieved
from medgen.inference.conditions.texts import (
    MODALITY,
    TEXT,
    AskedTexts,
    texts_in_csv,
    texts_in_lines,
    texts_of_set,
)
from medgen.inference.conditions.vectors import (
    MASK_COLUMN,
    Vectors,
    parse_vector,
    read_csv,
    slices_like,
    spread_order,
    vectors_like,
)
from medgen.models.text.prompts import Prompts, prompts_of
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
    fields: AskedFields | None = None
    prompt: str | None = None
    prompts: Path | None = None
    modality: str | None = None
    negative_prompt: str | None = None
    retrieve: Path | None = None
    retrieve_use: str | None = None
    strength: float | None = None
    text_encoder: str | None = None

    @contextlib.contextmanager
    def requests(self, model: Denoiser, seed: int, reporter: Reporter) -> Iterator[tuple[Requests, list[Identified]]]:
        """The requests for samples of `model`, and the sets they were taken from, which stay open for their masks.

        UsageError for options that contradict each other or do not fit the model; DataError for faulty files or sets.
        """
        wanted, reads = mask_of(model), prompts_of(model.network.config, model.facts, model.device, self.text_encoder)
        self._check(model, wanted, reads)
        fields = model.facts.vector_fields
        vectors: Vectors | None = None
        origins: Sequence[MaskOrigin] = ()
        texts: AskedTexts | None = None
        inputs: list[Identified] = []
        with contextlib.ExitStack() as stack:
            if self.vector is not None:
                vectors = parse_vector(self.vector, fields)[None]
            if self.mask is not None and wanted:
                origins = masks_in_files(self.mask, wanted)
            if reads and self._said:
                said = texts_in_lines(self.prompts) if self.prompts is not None else [self._one_prompt()]
                texts = AskedTexts(reads, said, [self.modality or ""] * len(said))
            if self.conditions is not None:
                origins = masks_in_csv(self.conditions, wanted) if wanted else ()
                texts = texts_in_csv(self.conditions, reads, self.fields) if reads else None
                others = [name for name, known in ((MASK_COLUMN, wanted), (TEXT, reads), (MODALITY, reads)) if known]
                others += self.fields.template.fields if self.fields else ()
                vectors = read_csv(self.conditions, fields, others)
            if self.like is not None:
                stored = stack.enter_context(open_set(self.like, random_access=True))
                inputs.append(stored)
                slices = slices_like(stored, self.like_split)
                vectors = vectors_like(stored, fields, slices) if fields else None
                origins = masks_of_set(stored, slices, wanted, str(self.like)) if wanted else ()
                texts = texts_of_set(stored, slices, reads, str(self.like)) if reads else None
            counts = {len(part) for part in (origins, vectors, texts) if part is not None and len(part)}
            if len(counts - {1}) > 1:
                raise UsageError(f"--prompts and --mask give {len(texts or ())} and {len(origins)}; give one each")
            given = max(counts, default=0)
            order = spread_order(given, self.count) if given else range(self.count or 1)
            if vectors is not None:
                vectors = vectors[order if len(vectors) == given else [0] * len(order)]
            masks = self._masks(origins, wanted, [int(one) for one in order], reporter) if wanted and origins else None
            if masks and self.mask_augment:
                masks = replace(masks, augmentation=Augmentation(self._limits(model, reporter), seed))
            negative = None
            if self.negative_vector is not None:
                negative = parse_vector(self.negative_vector, fields, "--negative-vector")
            retrieved = None
            if texts:
                texts = replace(texts, order=[int(one) % len(texts) for one in order], negative=self.negative_prompt)
                if self.retrieve is not None:
                    confirmed = stack.enter_context(open_set(self.retrieve, random_access=True))
                    inputs.append(confirmed)
                    retrieved = self._retrieved(Retrieval(confirmed, str(self.retrieve)), texts)
                    if retrieved.use == "terms" and retrieved.prompts == list(texts.texts):
                        reporter.say("the cases found add no terms: they say the same, or contradict the prompt")
                    texts = replace(texts, texts=retrieved.prompts)
                texts.inspect(reporter)
            yield Requests(len(order), vectors, masks, texts, negative, retrieved), inputs

    def _retrieved(self, retrieval: Retrieval, texts: AskedTexts) -> Retrieved:
        """The cases found for each text that a sample has."""
        used = set(texts.order)
        hits = [
            retrieval.nearest(text, texts.modalities[row]) if row in used else ()
            for row, text in enumerate(texts.texts)
        ]
        strength = DEFAULT_STRENGTH if self.strength is None else self.strength
        use: Lent = "image" if self.retrieve_use == "image" else "terms"
        return Retrieved(retrieval, texts.texts, hits, texts.order, use, strength)

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

    def _check(self, model: Denoiser, wanted: ModelMasks | None, reads: Prompts | None) -> None:
        """UsageError unless the options fit each other and the model."""
        path, fields = model.model.path, model.facts.vector_fields
        self._check_sources()
        missing = {
            "masks": [] if wanted else self._given("mask", "mask_augment"),
            "texts": []
            if reads
            else self._given("prompt", "prompts", "fields", "modality", "negative_prompt", "retrieve"),
        }
        named = self._given("vector", "mask", "prompt", "prompts", "fields", "conditions", "like")
        if named and not fields and not wanted and not reads:
            raise UsageError(f"{path} was trained without conditions; leave out {named[0]}")
        missing["condition vectors" if wanted or reads else "conditions"] = (
            [] if fields else self._given("vector", "negative_vector")
        )
        for told, options in missing.items():
            if options:
                raise UsageError(f"{path} was trained without {told}; leave out {options[0]}")
        if self.negative_vector is not None and not named:
            raise UsageError(
                "--negative-vector needs a condition to lead towards; give --vector, --conditions or --like"
            )
        table = {"conditions", "like"} & {name.removeprefix("--") for name in named}
        if wanted and not self.unconditional and not table and self.mask is None:
            raise UsageError(
                f"{path} generates images from masks; give --mask, --like, or --conditions with a column mask "
                "(--unconditional for images of no mask)"
            )
        if reads and not self.unconditional and not table and not self._said:
            raise UsageError(
                f"{path} generates images from texts; give --prompt TEXT, --prompts FILE, --like, or --conditions "
                "with a column text (--unconditional for images of no text)"
            )
        if self.mask_augment and (self.vector or self.mask is None) and set(PLACE_FIELDS) & set(fields):
            told = ", ".join(name for name in fields if name in PLACE_FIELDS)
            raise UsageError(
                f"{path} has positions in its vectors ({told}), which would not move with the mask; leave out "
                "--mask-augment"
            )

    def _check_sources(self) -> None:
        """UsageError for options of which only one can be followed."""
        fields = self._given("fields")
        said = self._given("prompt", "prompts") + ([] if self.conditions is not None else fields)
        parts = self._given("vector", "mask") + said
        apart = self._given("conditions", "like", "unconditional")
        if len(parts) + len(apart) > 1 and (apart or len(said) > 1):
            named = [*parts, *apart] if apart else said
            raise UsageError(f"{' and '.join(named)} exclude each other; give one")
        if self.retrieve is None:
            for option in self._given("retrieve_use", "strength"):
                raise UsageError(f"{option} needs --retrieve")
        if self.retrieve_use not in (None, *get_args(Lent)):
            raise UsageError(f"--retrieve-use {self.retrieve_use}: expected {' or '.join(get_args(Lent))}")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise UsageError(f"--strength {self.strength:g}: must lie above 0 and not above 1")
        if self.strength is not None and self.retrieve_use != "image":
            raise UsageError("--strength applies to images used as the start; give --retrieve-use image")
        if self.like_split is not None and self.like is None:
            raise UsageError("--like-split needs --like")
        if self.unconditional:
            for option in self._given("mask_augment", "modality", "negative_prompt", "retrieve"):
                raise UsageError(f"{option} and --unconditional exclude each other; give one")
        if self.modality is not None and self._given("conditions", "like"):
            raise UsageError("--modality goes with --prompt or --prompts; a table or set states its own")

    def _given(self, *names: str) -> list[str]:
        """Which of these options were given, as they are typed."""
        given = [name for name in names if getattr(self, name) not in (None, False)]
        return ["fields of a prompt" if name == "fields" else f"--{name.replace('_', '-')}" for name in given]

    @property
    def _said(self) -> bool:
        """Whether options say what all samples should show, or each of them."""
        return bool(self._given("prompt", "prompts")) or (self.fields is not None and self.conditions is None)

    def _one_prompt(self) -> str:
        return self.fields.prompt(self.modality) if self.fields else self.prompt or ""


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
    steps = model.model.provenance.steps
    stretched = any(one.command == "preprocess" and one.config.get("keep_aspect") is False for one in steps)
    return ModelMasks(names, (height * side.factor, width * side.factor), keep_aspect=not stretched)
