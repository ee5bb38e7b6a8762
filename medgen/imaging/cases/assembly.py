"""Slabs from the workers become a case: resampled in depth, with vectors, labels, texts, split and place in space."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.artifacts.schema import GENERATED, NO_SPLIT, SPLITS, Case
from medgen.errors import DataError, MedgenError
from medgen.imaging.cases.duplicates import Duplicates, joined
from medgen.imaging.cases.options import PreprocessOptions
from medgen.imaging.cases.planning import Listener, Plan, PlannedCase
from medgen.imaging.cases.splits import hashed_frame, held_out, split_of
from medgen.imaging.cases.work import ReadTask, Slab
from medgen.imaging.geometry import DepthMap, PlaneMap, plan_depth
from medgen.imaging.labels.annotations import vector_of


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
        self._splits: set[str] = set()
        self._trained = plan.classes.get(options.train_only)
        self._not_trained = {patient_of(case) for case in plan.cases if self._has_other_labels(case)} - {""}
        self._moved = 0
        self.duplicates = Duplicates()

    def take(self, task: ReadTask, slab: Slab | MedgenError) -> Case | MedgenError | None:
        """The case, or why it failed, once `slab` is its last; None before, and for a duplicate that is dropped."""
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
        case = self._plan.cases[task.case]
        digest = joined([slab.digest for slab in slabs])
        split = self._split(case, patient_of(case) or joined([slab.identity for slab in slabs]).hex())
        if self.duplicates.add(digest, task.case, split) and self._options.drop_duplicates:
            return None
        self._splits.add(split)
        try:
            return self._finish(case, self._planes[task.case], slabs, split)
        except DataError as error:
            return error

    def report(self, listener: Listener, *, whole: bool) -> None:
        """Tell what only shows when all cases are known, or of a shard, all its own."""
        self.duplicates.tell(self._plan.cases, listener, dropped=self._options.drop_duplicates)
        if not whole:
            return
        if self._moved:
            listener.say(
                f"{self._moved} cases kept out of the training split, which is for '{self._options.train_only}'"
            )
        wanted = [name for name, part in zip(SPLITS, self._fractions, strict=True) if part > 0]
        missing = [name for name in wanted if name not in self._splits]
        if missing and not self._options.split_name and len(self._plan.cases) > 1:
            listener.warn(
                f"no patient fell into {' and '.join(missing)}: add patients, or choose other --split fractions"
            )

    def _finish(self, case: PlannedCase, plane: PlaneMap, slabs: list[Slab], split: str) -> Case:
        stack, keep, options = case.stack, case.keep, self._options
        values = np.concatenate([slab.values for slab in slabs])
        masks = [slab.mask for slab in slabs if slab.mask is not None]
        mask = np.concatenate(masks) if masks else None
        source_of = np.array(keep)  # index in the stack of each slice of the result
        offsets = np.array([stack.offsets[index] for index in keep])
        depth_spacing, thickness = stack.spacing[0], stack.thickness
        if options.thickness is not None and len(keep) > 1:
            depth: DepthMap = plan_depth(offsets, depth_spacing, options.thickness)
            values = depth.volume(values)
            if mask is not None:
                mask = (depth.volume(mask.astype(np.float32)) >= 0.5).astype(np.uint8)
            # Averaging makes slices thicker; interpolating leaves them as thick as they were measured.
            thickness = max(options.thickness, thickness or depth_spacing)
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
        flaws = [*stack.flaws] + ["slices left out"] * (len(keep) < keep[-1] - keep[0] + 1)
        texts = [case.annotation.texts.get(int(index), "") for index in source_of]
        modalities = [case.annotation.modalities.get(int(index), stack.first.modality) for index in source_of]
        return Case(
            id=case.id,
            arrays=arrays,
            split=split,
            spacing=(depth_spacing, stack.spacing[1] / plane.y.scale, stack.spacing[2] / plane.x.scale),
            origin=origin,
            direction=direction,
            text=tuple(texts) if any(texts) else (),
            modality=tuple(modalities) if any(modalities) else (),
            thickness=thickness,
            frame=hashed_frame(self._key, stack.first.reference),
            flaws=", ".join(flaws),
            synthetic=_synthetic(case),
        )

    def _vectors(self, case: PlannedCase, plane: PlaneMap, source_of: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        fields = self._plan.vector_fields
        vectors = np.zeros((len(source_of), len(fields)), dtype=np.float32)
        for row, index in enumerate(source_of):
            finding = case.annotation.findings.get(int(index))
            if finding is not None:
                vectors[row] = vector_of(finding, fields, plane, f"{case.stack.slices[index].entry.name}")
        return vectors

    def _split(self, case: PlannedCase, patient: str) -> str:
        """Where nothing tells the patient, the pixels do: equal images share a split."""
        name = self._options.split_name or case.annotation.split
        if not name:
            generated = _synthetic(case) == GENERATED  # nobody asked to train on it
            name = NO_SPLIT if generated else split_of(self._key, patient, self._fractions)
        if name == "train" and (patient in self._not_trained or self._has_other_labels(case)):
            name = split_of(self._key, f"{patient}, held out", held_out(self._fractions))  # drawn anew
            self._moved += 1
        return name

    def _has_other_labels(self, case: PlannedCase) -> bool:
        """Whether a case must not be trained on."""
        return self._trained is not None and set(case.annotation.labels.values()) != {self._trained}


def _synthetic(case: PlannedCase) -> str:
    """Whether and how a model made the images, as their files or labels say."""
    return case.annotation.synthetic or case.stack.first.synthetic


def patient_of(case: PlannedCase) -> str:
    """Whose images a case holds; "" where nobody tells."""
    return case.annotation.patient or case.stack.patient


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
