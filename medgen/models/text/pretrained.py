"""Text encoders of the library transformers, from a folder or by name: weights, tokenizer, digest and readers."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medgen.artifacts.provenance import Provenance, derive, fingerprint
from medgen.artifacts.tensors.file import tensor_bytes
from medgen.errors import DataError, InputMissingError, UnavailableError
from medgen.nets.options import OutsideTextConfig
from medgen.nets.text.pretrained import CLIP, OutsideEncoder, rows_encoded, transformers, without_pooling

KEPT = 256 << 20
"""Bytes of caption states that are cached, the latest used."""
CHANGING = ("architectures", "transformers_version", "dtype")
"""Settings that do not shape the network but change with the library's version."""


@dataclass(frozen=True)
class Pretrained:
    """A text encoder as it was loaded."""

    name: str
    """The name of its folder, or on the hub."""
    config: OutsideTextConfig
    weights: dict[str, Tensor]
    tokenizer: str
    """JSON of the library tokenizers."""
    padding: int
    """Token id of the padding."""

    @property
    def digest(self) -> str:
        """SHA-256 of weights and tokenizer, in hexadecimal."""
        running = hashlib.sha256(self.tokenizer.encode())
        for name, tensor in sorted(self.weights.items()):
            running.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            running.update(tensor_bytes(tensor.contiguous()))
        return running.hexdigest()

    @property
    def provenance(self) -> Provenance:
        """One step: the import of this encoder."""
        return derive("import-text-encoder", {"name": self.name}, sources=fingerprint([self.digest]))

    def digests(self) -> dict[str, str]:
        """Content digest by id."""
        return {self.provenance.id: self.digest}

    def encoder(self, device: torch.device) -> OutsideEncoder:
        """The network, frozen."""
        network = OutsideEncoder(self.config)
        network.load_state_dict(self.weights)
        return network.to(device).eval().requires_grad_(False)


def load_pretrained(place: str, length: int) -> Pretrained:
    """The encoder in a folder or on the hub, with its tokenizer, for texts of at most `length` tokens.

    UnavailableError without the library; InputMissingError if there is no such encoder; DataError if it is unusable.
    """
    library = transformers()
    local = Path(place).is_dir()
    given: dict[str, Any] = {"local_files_only": local}
    try:
        settings = library.AutoConfig.from_pretrained(place, **given)
        clip = settings.model_type in CLIP
        words = (library.CLIPTokenizer if clip else library.AutoTokenizer).from_pretrained(place, **given)
        kind = library.CLIPTextModel if clip else library.AutoModel
        given |= {"use_safetensors": True, "dtype": torch.float32}
        found = without_pooling(partial(kind.from_pretrained, place, **given))
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        told = next(iter(str(error).splitlines()), type(error).__name__)
        if not local:
            raise InputMissingError(
                f"--text-encoder {place}: not a folder, and not available from the hub ({told})"
            ) from None
        raise DataError(
            f"--text-encoder {place}: cannot be read ({told}); it needs config.json, its tokenizer, and its weights as "
            "model.safetensors"
        ) from None
    backend = getattr(words, "backend_tokenizer", None)
    if backend is None:
        raise DataError(f"--text-encoder {place}: its tokenizer has no fast version; save one as tokenizer.json")
    backend.no_padding()
    backend.no_truncation()
    probe = backend.encode("the image of a left and a right lung", add_special_tokens=False).ids
    if words.unk_token_id is not None and set(probe) <= {words.unk_token_id}:
        raise DataError(f"--text-encoder {place}: its tokenizer knows no English words; add its vocabulary")
    plain: dict[str, Any] = json.loads(found.config.to_json_string(use_diff=True))
    plain = {key: value for key, value in plain.items() if key not in CHANGING} | {
        "model_type": found.config.model_type
    }
    places = getattr(getattr(found, "embeddings", None), "position_embeddings", None)
    padding = getattr(places, "padding_idx", None)  # RoBERTa's places begin after that of the padding
    most = int(getattr(found.config, "max_position_embeddings", length)) - (0 if padding is None else padding + 1)
    config = OutsideTextConfig(
        settings=plain, width=int(found.config.hidden_size), length=min(length, most), padding=words.pad_token_id or 0
    )
    weights = {f"model.{name}": tensor.detach().clone() for name, tensor in found.state_dict().items()}
    name = Path(place).resolve().name if local else place
    return Pretrained(name, config, weights, backend.to_str(), config.padding)


@dataclass(frozen=True)
class OutsideWords:
    """Reads texts as token ids of an outside encoder, with its tokenizer."""

    tokenizer: str
    length: int
    padding: int
    _backend: list[Any] = field(default_factory=list, repr=False, compare=False)

    def read(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids `words` (B, length) int64 and `token_mask` (B, length), True at tokens, one row per text."""
        words = torch.full((len(texts), self.length), self.padding)
        real = torch.zeros(len(texts), self.length, dtype=torch.bool)
        for row, text in enumerate(texts):
            ids = self._encoded(text).ids
            if len(ids) > self.length:  # the end of the text has a mark of its own
                ids = [*ids[: self.length - 1], ids[-1]]
            words[row, : len(ids)] = torch.tensor(ids)
            real[row, : len(ids)] = True
        return {"words": words, "token_mask": real}

    def cut(self, text: str) -> str:
        """The rest of a text from the first token that is not read; "" if all is read."""
        found = self._encoded(text)
        return "" if len(found.ids) <= self.length else text[found.offsets[self.length - 1][0] :].strip()

    def unknown(self, text: str) -> list[str]:
        """The words of a text of which nothing is read."""
        backend = self._loaded()
        found = self._encoded(text)
        mark = getattr(backend.model, "unk_token", None)
        number = None if mark is None else backend.token_to_id(mark)
        places = zip(found.ids, found.offsets, found.special_tokens_mask, strict=True)
        return [text[first:last] for one, (first, last), marks in places if one == number and not marks]

    def _encoded(self, text: str) -> Any:
        return self._loaded().encode(text)

    def _loaded(self) -> Any:
        if not self._backend:
            try:
                from tokenizers import Tokenizer
            except ImportError:
                raise UnavailableError("tokenizers is not installed; pip install 'medgen[text]'") from None
            self._backend.append(Tokenizer.from_str(self.tokenizer))
        return self._backend[0]


@dataclass(frozen=True)
class FrozenStates:
    """Reads texts as states of a frozen encoder, computed once per text and cached within `room` bytes."""

    words: OutsideWords
    encoder: OutsideEncoder
    device: torch.device
    room: int = KEPT
    kept: OrderedDict[str, tuple[Tensor, Tensor, Tensor]] = field(default_factory=OrderedDict, repr=False)
    """Tokens (L, width), pooled (width,) and mask (L,) by text, the latest used last."""

    def read(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`tokens` (B, L, width), `pooled` (B, width) and `token_mask` (B, L), True at tokens, one row per text."""
        found = {text: self.kept[text] for text in texts if text in self.kept}
        new = [text for text in dict.fromkeys(texts) if text not in found]
        if new:
            parts = self.words.read(new)
            real = parts["token_mask"]
            states = rows_encoded(self.encoder, parts["words"].to(self.device), real.to(self.device))
            if states.pooled is None:
                raise TypeError("an outside encoder pools its texts")
            found |= zip(new, zip(states.tokens.cpu(), states.pooled.cpu(), real, strict=True), strict=True)
        for text in found:
            self.kept[text] = found[text]
            self.kept.move_to_end(text)
        size = sum(part.nbytes for part in next(iter(found.values()), ()))
        while len(self.kept) * size > self.room:
            self.kept.popitem(last=False)
        names = ("tokens", "pooled", "token_mask")
        return {name: torch.stack([found[text][place] for text in texts]) for place, name in enumerate(names)}

    def cut(self, text: str) -> str:
        """The rest of a text that is not read; "" if all is read."""
        return self.words.cut(text)

    def unknown(self, text: str) -> list[str]:
        """The words of a text of which nothing is read."""
        return self.words.unknown(text)
