"""`medgen preprocess`: a plan becomes cases, read by worker processes and written in order, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.artifacts.provenance import derive, fingerprint
from medgen.artifacts.schema import Case, SetHeader
from medgen.artifacts.sets import create_set
from medgen.artifacts.sharding import mark_shard, take_shard
from medgen.config import plain
from medgen.errors import DataError, MedgenError, UsageError
from medgen.imaging.annotations import vector_of
from medgen.imaging.geometry import DepthMap, PlaneMap, parse_size, plan_depth, plan_plane
from medgen.imaging.options import PreprocessOptions
from medgen.imaging.planning import Inputs, LeftOut, Listener, Plan, PlannedCase, make_plan
from medgen.imaging.splits import parse_fractions, resolve_key, split_of, uniform
from medgen.imaging.work import Piece, ReadTask, Slab, read
from medgen.imaging.workers import Workers

SLAB_SLICES = 16  # decoded in one task; bounds the memory of a worker, and keeps all of them busy on one case

_NOT_PROVENANCE = ("workers", "keep_going")  # what does not change the result


@dataclass(frozen=True)
class Done:
    """What came of it."""

    cases: int
    slices: int
    left_out: tuple[str, ...]


def preprocess(
    inputs: Inputs,
    output: str,
    options: PreprocessOptions,
    listener: Listener,
    *,
    id_key: str | None = None,
    shard: tuple[int, int] = (0, 1),
    force: bool = False,
    progress: Callable[[int], Any] = lambda total: None,
) -> Done:
    """Read `inputs` and write one image set to `output`.

    `progress` is called once with the number of slices and returns a context manager that yields `advance(count)`.
    Raises DataError naming the first file that fails, unless `options.keep_going`.
    """
    key = resolve_key(id_key)
    size = parse_size(options.size)
    fractions = parse_fractions(options.split)
    if options.healthy_slices is not None and options.thickness is not None:
        raise UsageError("--healthy-slices picks single slices, --thickness needs all of them; use one of the two")
    left_out = LeftOut(listener, options.keep_going)
    with Workers(options.workers) as workers:
        plan = make_plan(inputs, options, key, workers, left_out, listener)
        for case in plan.cases:
            case.keep = _kept_slices(case, plan, options, key)
        header = mark_shard(_header(inputs, plan, options), *shard)
        plan.cases = list(take_shard(plan.cases, *shard))
        planes = [_plane(case, options, size) for case in plan.cases]
        assembler = Assembler(plan, planes, options, key, fractions)
        total = sum(len(case.keep) for case in plan.cases)
        with create_set(output, header, force=force) as writer, progress(total) as advance:
            for task, slab in workers.map(read, _tasks(plan, planes, options)):
                outcome = assembler.take(task, slab)
                if isinstance(outcome, MedgenError):
                    left_out.add(str(outcome))
                elif outcome is not None:
                    writer.write(outcome)
                advance(sum(len(piece.frames) for piece in task.pieces))
            if plan.cases and not writer.digest.cases:
                raise DataError(f"all {len(plan.cases)} cases failed; the first: {left_out.reasons[0]}")
    assembler.report(listener)
    return Done(writer.digest.cases, writer.digest.slices, tuple(left_out.reasons))


class Assembler:
    """Joins the slabs of a case, and finishes it when its last one arrives."""

    def __init__(
        self, plan: Plan, planes: list[PlaneMap], options: PreprocessOptions, key: bytes, fractions: tuple[float, ...]
    ) -> None:
        self._plan = plan
        self._planes = planes
        self._options = options
        self._key = key
        self._fractions = fractions
        self._slabs: list[Slab] = []
        self._failure: MedgenError | None = None
        self._digests: set[bytes] = set()
        self._copies = 0
        self._splits: set[str] = set()

    def take(self, task: ReadTask, slab: Slab | MedgenError) -> Case | MedgenError | None:
        """The case, or why it failed, once `slab` is its last; None before."""
        if isinstance(slab, MedgenError):
            self._failure = self._failure or slab
        else:
            self._slabs.append(slab)
        if not task.last:
            return None
        slabs, failure = self._slabs, self._failure
        self._slabs, self._failure = [], None
        if failure is not None:
            return failure
        try:
            return self._finish(self._plan.cases[task.case], self._planes[task.case], slabs)
        except DataError as error:
            return error

    def report(self, listener: Listener) -> None:
        """Tell what only shows when all cases are known."""
        if self._copies:
            listener.warn(f"{self._copies} files are exact copies of others; copies share a split")
        wanted = {
            name for name, part in zip(("train", "val", "test"), self._fractions, strict=True) if part > 0
        }  # with few patients, a split may well stay empty
        missing = sorted(wanted - self._splits)
        if missing and not self._options.split_name:
            listener.warn(
                f"no patient fell into {' and '.join(missing)}; choose other --split fractions, or add patients"
            )

    def _finish(self, case: PlannedCase, plane: PlaneMap, slabs: list[Slab]) -> Case:
        stack, keep, options = case.stack, case.keep, self._options
        values = np.concatenate([slab.values for slab in slabs])
        masks = [slab.mask for slab in slabs if slab.mask is not None]
        mask = np.concatenate(masks) if masks else None
        source_of = np.array(keep)  # index in the stack of each slice of the result
        offsets = np.array([stack.offsets[index] for index in keep])
        depth_spacing = stack.spacing[0]
        if options.thickness is not None and len(keep) > 1:
            depth: DepthMap = plan_depth(offsets, depth_spacing, options.thickness)
            values = depth.volume(values)
            if mask is not None:
                mask = (depth.volume(mask.astype(np.float32)) >= 0.5).astype(np.uint8)
            source_of, offsets, depth_spacing = source_of[depth.nearest], depth.targets, options.thickness
        if values.dtype == np.float32:
            values = self._plan.encoding.encode(values)
        arrays: dict[str, npt.NDArray[Any]] = {"image": np.ascontiguousarray(values)}
        if mask is not None:
            arrays["mask"] = mask
        if self._plan.vector_fields:
            arrays["vector"] = self._vectors(case, plane, source_of)
        if self._plan.labelled:
            arrays["label"] = np.array([case.annotation.labels[index] for index in source_of], dtype=np.int64)
        origin, direction = _placed(stack.origin, stack.direction, stack.spacing, plane, float(offsets[0]))
        texts = [case.annotation.texts.get(int(index), "") for index in source_of]
        modalities = [case.annotation.modalities.get(int(index), stack.first.modality) for index in source_of]
        return Case(
            id=case.id,
            arrays=arrays,
            split=self._split(case, slabs),
            spacing=(depth_spacing, stack.spacing[1] / plane.y.scale, stack.spacing[2] / plane.x.scale),
            origin=origin,
            direction=direction,
            text=tuple(texts) if any(texts) else (),
            modality=tuple(modalities) if any(modalities) else (),
        )

    def _vectors(self, case: PlannedCase, plane: PlaneMap, source_of: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        fields = self._plan.vector_fields
        vectors = np.zeros((len(source_of), len(fields)), dtype=np.float32)
        for row, index in enumerate(source_of):
            finding = case.annotation.findings.get(int(index))
            if finding is not None:
                vectors[row] = vector_of(finding, fields, plane, f"{case.stack.slices[index].entry.name}")
        return vectors

    def _split(self, case: PlannedCase, slabs: list[Slab]) -> str:
        digest = slabs[0].digest
        if digest:
            short = bytes.fromhex(digest)[:8]
            self._copies += short in self._digests
            self._digests.add(short)
        patient = case.annotation.patient or case.stack.patient or digest
        name = self._options.split_name or case.annotation.split or split_of(self._key, patient, self._fractions)
        self._splits.add(name)
        return name


def _tasks(plan: Plan, planes: list[PlaneMap], options: PreprocessOptions) -> Iterator[ReadTask]:
    """The slices to read, in order, in slabs; a file is never cut in two."""
    keep_physical = plan.encoding.per_case or options.thickness is not None
    for number, (case, plane) in enumerate(zip(plan.cases, planes, strict=True)):
        pieces = list(_pieces(case))
        slabs: list[list[Piece]] = [[]]
        for piece in pieces:
            if slabs[-1] and sum(len(other.frames) for other in slabs[-1]) + len(piece.frames) > SLAB_SLICES:
                slabs.append([])
            slabs[-1].append(piece)
        for part, slab in enumerate(slabs):
            yield ReadTask(
                case=number,
                last=part == len(slabs) - 1,
                pieces=tuple(slab),
                plane=plane,
                encoding=plan.encoding,
                channels=plan.channels,
                masked=bool(case.masks),
                mask_background=options.mask_background,
                keep_physical=keep_physical,
                digest=part == 0 and not (case.annotation.patient or case.stack.patient),
            )


def _pieces(case: PlannedCase) -> Iterator[Piece]:
    """Neighbouring slices of one file together."""
    run: list[int] = []
    for index in case.keep:
        if run and case.stack.slices[run[0]].entry != case.stack.slices[index].entry:
            yield _piece(case, run)
            run = []
        run.append(index)
    yield _piece(case, run)


def _piece(case: PlannedCase, run: list[int]) -> Piece:
    slices = [case.stack.slices[index] for index in run]
    masks = tuple(case.masks[index] for index in run) if case.masks else ()
    return Piece(slices[0].entry, slices[0].format, tuple(item.frame for item in slices), masks)


def _kept_slices(case: PlannedCase, plan: Plan, options: PreprocessOptions, key: bytes) -> list[int]:
    """Indices of the slices to keep: all, or those with a finding and some of the others, drawn by a keyed hash."""
    every = list(range(len(case.stack.slices)))
    if options.healthy_slices is None or not plan.vector_fields:
        return every
    healthy = sorted(set(every) - set(case.annotation.findings), key=lambda index: uniform(key, f"{case.id}/{index}"))
    return sorted([*case.annotation.findings, *healthy[: options.healthy_slices]])


def _plane(case: PlannedCase, options: PreprocessOptions, size: tuple[int, int] | None) -> PlaneMap:
    first = case.stack.first
    return plan_plane(
        (first.rows, first.columns),
        (case.stack.spacing[1], case.stack.spacing[2]),
        size=size,
        keep_aspect=options.keep_aspect,
        spacing=options.spacing,
    )


def _placed(
    origin: tuple[float, float, float],
    direction: tuple[float, ...],
    spacing: tuple[float, float, float],
    plane: PlaneMap,
    offset: float,
) -> tuple[tuple[float, float, float], tuple[float, ...]]:
    """Centre of the first voxel after the geometry (LPS, mm), and the unchanged directions."""
    z, y, x = np.array(direction).reshape(3, 3)
    across = plane.x.inverse(0.5) - 0.5
    down = plane.y.inverse(0.5) - 0.5
    place = np.array(origin) + z * offset + y * down * spacing[1] + x * across * spacing[2]
    return (float(place[0]), float(place[1]), float(place[2])), direction


def _header(inputs: Inputs, plan: Plan, options: PreprocessOptions) -> SetHeader:
    config = {name: value for name, value in plain(options).items() if name not in _NOT_PROVENANCE}
    notes = {}
    if options.mask_background:
        notes["background"] = "outside the lungs set to -1000 HU"
    if plan.encoding.per_case:
        notes["intensity"] = "each case scaled by its own percentiles 0.5 and 99.5"
    if options.healthy_slices is not None and plan.vector_fields:
        notes["slices"] = f"only those with a finding, and at most {options.healthy_slices} others a case"
    if plan.classes:
        notes["labels"] = ",".join(plan.classes)
    return SetHeader(
        kind="image",
        provenance=derive("preprocess", config, sources=fingerprint(_facts(inputs, plan))),
        intensity=plan.encoding.intensity,
        vector_fields=plan.vector_fields,
        notes=notes,
    )


def _facts(inputs: Inputs, plan: Plan) -> Iterator[str | int]:
    """What identifies the sources without naming them."""
    for file in [inputs.labels] if inputs.labels else []:
        yield fingerprint([file.read_text(encoding="utf-8-sig")])
    for case in plan.cases:
        yield case.id
        yield from (item.entry.size for item in case.stack.slices)
        yield len(case.annotation.findings)
        yield from (sum(finding.values).hex() for _, finding in sorted(case.annotation.findings.items()))
        yield from (source.entry.size for source in case.masks[:1] if source)
