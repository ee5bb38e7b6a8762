"""What a set or model holds and where it came from, as shown by `medgen info`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from medgen.artifacts.label_maps import MaskCounts, mask_names
from medgen.artifacts.model_record import read_record
from medgen.artifacts.schema import TEXT_NAMES, Array, Case
from medgen.artifacts.sets import open_set
from medgen.artifacts.stored import CaseRow, StoredSet
from medgen.artifacts.synthetic import counted
from medgen.visible import visible

TEXTS_SHOWN = 10
LONG = {"vocabulary": "pieces of words", "merges": "pairs of pieces", "words": "words of captions"}
"""Facts that are only counted for people."""


def is_model(file: str) -> bool:
    """Whether `file` is a model; streams are safetensors too, but their first header names no tensors and no kind."""
    return b"medgen.model/" in _first_header(file)


def is_state(file: str) -> bool:
    """Whether `file` is the saved state of a training."""
    return b"medgen.resume/" in _first_header(file)


def _first_header(file: str) -> bytes:
    if file == "-" or not Path(file).is_file():
        return b""
    with Path(file).open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        return opened.read(length) if length < 100 << 20 else b""


def model_facts(path: Path) -> dict[str, Any]:
    """Facts of a model file, without loading its network; DataError for another file."""
    record, header = read_record(path)
    parameters = Counter[str]()
    for name, entry in header.tensors.items():
        size = 1
        for side in entry.shape:
            size *= side
        parameters[name.partition(".")[0]] += size
    return {
        "artifact": "model",
        "kind": record.kind,
        "parameters": dict(sorted(parameters.items())),
        "config": record.config,
        "facts": record.facts,
        "digest": record.digest,
        "provenance": _steps(record.provenance),
    }


def set_facts(file: str) -> dict[str, Any]:
    """Facts of a set; `-` is standard input. A stream is read to its end, a set on disk only in tables and masks."""
    with open_set(file) as reader:
        splits: Counter[str] = Counter()
        depths: Counter[int] = Counter()
        places: list[Case | CaseRow] = []
        arrays: dict[str, str] = {}
        told = {name: Counter[str]() for name in TEXT_NAMES}  # of how many slices
        labels: Counter[int] = Counter()
        scores: list[float] = []
        masks = MaskCounts(mask_names(reader.header))
        if isinstance(reader, StoredSet):
            for row in reader.cases:
                splits[row.split] += 1
                depths[row.count] += 1
            places += reader.cases
            arrays = {name: _describe(shape, str(dtype)) for name, (shape, dtype) in reader.arrays().items()}
            for name, counts in told.items():
                counts.update(reader.texts(name) if reader.has(name) else ())
            labels.update(_numbers(reader.column("label")) if "label" in arrays else ())
            scores += reader.column("quality").tolist() if "quality" in arrays else []
            for index in range(reader.slices if "mask" in arrays else 0):
                masks.add(reader.read("mask", [index]))
        else:
            for case in reader:
                splits[case.split] += 1
                depths[len(case)] += 1
                places.append(replace(case, arrays={}))  # the geometry without the pixels
                arrays = {name: _describe(array.shape[1:], str(array.dtype)) for name, array in case.arrays.items()}
                for name, counts in told.items():
                    counts.update(getattr(case, name) or [""] * len(case))
                labels.update(_numbers(case["label"]) if "label" in case.arrays else ())
                scores += case["quality"].tolist() if "quality" in case.arrays else []
                if "mask" in case.arrays:
                    masks.add(case["mask"])
        header, tail = reader.header, reader.tail
        facts: dict[str, Any] = {
            "artifact": "set",
            "kind": header.kind,
            "cases": tail.cases,
            "slices": tail.slices,
            "splits": dict(sorted(splits.items())),
            "synthetic": counted(places),
            "slices_per_case": [min(depths, default=0), max(depths, default=0)],
            "arrays": dict(sorted(arrays.items())),
        }
        if any(depth > 1 for depth in depths):
            facts["geometry"] = _geometry(places)
        if header.intensity is not None:
            facts["intensity"] = msgspec.to_builtins(header.intensity)
        if header.vector_fields:
            facts["vector_fields"] = list(header.vector_fields)
        if header.label_names:
            facts["label_names"] = list(header.label_names)
        facts |= _conditions(told, labels, header.label_names)
        if scores:
            figures = {"lowest": min(scores), "mean": sum(scores) / len(scores), "highest": max(scores)}
            facts["quality"] = {name: round(figure, 4) for name, figure in figures.items()}
        if "mask" in arrays:
            facts["mask_classes"] = masks.facts()
        if header.vae_digest:
            facts["vae_digest"] = header.vae_digest
            facts["latent_scale"], facts["latent_shift"] = header.latent_scale, header.latent_shift
        if tail.latent_mean:
            for name in ("latent_mean", "latent_std"):
                facts[name] = [float(f"{value:.6g}") for value in getattr(tail, name)]
        if header.notes:
            facts["notes"] = header.notes
        facts["digest"] = tail.digest
        facts["provenance"] = _steps(header.provenance)
        return facts


def _numbers(labels: Array) -> Iterable[int]:
    return (int(label) for label in labels)


def _conditions(told: dict[str, Counter[str]], labels: Counter[int], names: Sequence[str]) -> dict[str, Any]:
    """How many slices have each label, modality and text, the most common text first; empty ones are left out."""
    facts: dict[str, Any] = {}
    if labels:
        facts["labels"] = {
            names[number] if number < len(names) else str(number): labels[number] for number in sorted(labels)
        }
    if any(told["modality"]):
        facts["modality"] = {name or "(none)": count for name, count in sorted(told["modality"].items())}
    if any(told["text"]):
        common = sorted(told["text"].items(), key=lambda item: (-item[1], item[0]))
        facts["text"] = {text or "(none)": count for text, count in common[:TEXTS_SHOWN]}
        if len(common) > TEXTS_SHOWN:
            facts["text"][f"({len(common) - TEXTS_SHOWN} more)"] = sum(count for _, count in common[TEXTS_SHOWN:])
    return facts


def _geometry(places: Sequence[Case | CaseRow]) -> dict[str, Any]:
    """Ranges over the cases, in mm; what no case states is left out."""
    facts: dict[str, Any] = {"slice_spacing_mm": _range([place.spacing[0] for place in places])}
    thickness = [place.thickness for place in places if place.thickness]
    if thickness:
        facts["slice_thickness_mm"] = _range(thickness)
    frames = {place.frame for place in places if place.frame}
    if frames:
        facts["frames_of_reference"] = len(frames)
    for name in ("flaws", "mended"):
        counts = Counter(getattr(place, name) for place in places if getattr(place, name))
        if counts:
            facts[name] = dict(sorted(counts.items()))
    if filled := sum(sum(place.filled) for place in places):
        facts["slices_filled"] = filled
    return facts


def _range(values: Sequence[float]) -> list[float]:
    return [round(min(values), 6), round(max(values), 6)]


def _steps(provenance: Any) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = msgspec.to_builtins(provenance.steps)
    return steps


def _describe(shape: tuple[int, ...], dtype: str) -> str:
    return f"{' x '.join(map(str, shape)) or 'scalar'} {dtype} a slice"


def as_text(facts: dict[str, Any]) -> str:
    """Facts as lines for people."""
    lines = []
    for key, value in facts.items():
        if key == "provenance":
            lines.append("provenance:")
            for step in value:
                origin = f" <- {', '.join(step['inputs'])}" if step["inputs"] else ""
                lines.append(
                    f"  {step['id']}  {step['command']} (medgen {step['version']}, seed {step['seed']}){origin}"
                )
        elif isinstance(value, dict):
            lines.append(f"{key}:")
            lines += [f"  {_shown(name)}: {_short(item, LONG.get(name))}" for name, item in value.items()]
        else:
            lines.append(f"{key}: {_short(value)}")
    return "\n".join(map(visible, lines))


def _shown(name: str) -> str:
    """Escape terminal control codes, since texts come from outside."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)


def _short(value: Any, counted: str | None = None) -> str:
    """A value in one line; of a long list, `counted` says what it counts."""
    if counted and value:
        return f"{len(value)} {counted}"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
