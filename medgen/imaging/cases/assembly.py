"""Join slabs from the workers into a case: resampled in depth, with vectors, labels, texts, split and geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.artifacts.schema import GENERATED, NO_SPLIT, SPLITS, Case
from medgen.artifacts.stacks import points, uneven_origins
from medgen.errors import DataError, MedgenError
from medgen.imaging.cases.duplicates import Duplicates, joined
from medgen.imaging.cases.identity import case_id, hashed_frame, split_key, telling_slice
from medgen.imaging.cases.mending import made_up
from medgen.imaging.cases.options import PreprocessOptions
from medgen.imaging.cases.planning import Plan, PlannedCase
from medgen.imaging.cases.splits import held_out, split_of
from medgen.imaging.cases.work import Slab
from medgen.imaging.geometry import DepthMap, PlaneMap, plan_depth
from medgen.imaging.labels.annotations import vector_of
from medgen.imaging.reading.series import SliceStack
from medgen.imaging.remembered import Remembered
from medgen.reporting import Reporter
from medgen.spelling import plain


class Assembler:
    """Joins the slabs of a case, and finishes it when its last one arrives."""

    def __init__(
        self,
        plan: Plan,
        options: PreprocessOptions,
        secret: bytes | None,
        fractions: tuple[float, ...],
    ) -> None:
        self._plan = plan
        self._options = options
        self._secret = secret
        self._key = split_key(secret)
        self._fractions = fractions
        self._slabs: list[Slab] = []
        self._failure: MedgenError | None = None
        self._splits: set[str] = set()
        self._trained = plan.classes.get(options.train_only)
        self._not_trained = {patient_of(case) for case in plan.cases if self._has_other_labels(case)} - {""}
        self._moved = 0
        self._cases = 0
        self._ids = Remembered()
        self._patients = Remembered()
        self._drawn = False  # whether the fractions decided any split
        self._torn = 0  # cases in another split than an earlier one of their patient
        self.duplicates = Duplicates()

    def take(
        self, case: PlannedCase, number: int, slab: Slab | MedgenError, *, last: bool
    ) -> Case | MedgenError | None:
        """Case `number`, or why it failed, if `slab` is its last one; else None, as for a duplicate that is dropped."""
        if isinstance(slab, MedgenError):
            self._failure = self._failure or slab
        else:
            self._slabs.append(slab)
        if not last:
            return None
        slabs, failure = self._slabs, self._failure
        self._slabs, self._failure = [], None
        if failure is not None:
            return failure
        self._cases += 1
        digests = [digest for slab in slabs for digest in slab.digests]
        split = self._split(case, patient_of(case) or joined([slab.identity for slab in slabs]).hex())
        labels = str(sorted(case.annotation.labels.items()))
        if self.duplicates.add(joined(digests), number, split, labels) and self._options.drop_duplicates:
            return None
        self._splits.add(split)
        person = plain(patient_of(case)).encode("utf-8", "surrogatepass")
        if person and split != NO_SPLIT:
            self._torn += self._patients.first(person, split) != split
        try:
            made = self._finish(case, slabs, split)
        except DataError as error:
            return error
        telling = telling_slice(case.stack)
        pixels = digests[case.keep.index(telling)] if telling in case.keep else slabs[-1].telling
        name = case_id(len(case.stack.slices), pixels, patient_of(case), self._secret)
        number = self._ids.count(name.encode())
        return replace(made, id=name if number == 1 else f"{name}.{number}")

    def report(self, reporter: Reporter, name: Callable[[int], str], *, whole: bool) -> None:
        """Report what is known only after all cases (for a shard, all of its own); `name` names one by its number."""
        self.duplicates.tell(name, reporter, dropped=self._options.drop_duplicates)
        if not whole:
            return
        if self._moved:
            reporter.say(
                f"{self._moved} cases kept out of the training split, which is for '{self._options.train_only}'"
            )
        if self._torn:
            reporter.warn(
                f"{self._torn} cases are in another split than an earlier case of their patient, as the table says or "
                "because ids of the patient are spelled in several ways: a model would be tested on patients that it "
                "learned from"
            )
        wanted = [name for name, part in zip(SPLITS, self._fractions, strict=True) if part > 0]
        missing = [name for name in wanted if name not in self._splits]
        if missing and self._drawn and self._cases > 1:
            reporter.warn(
                f"no patient fell into {' and '.join(missing)}: add patients, or choose other --split-fractions"
            )

    def _finish(self, case: PlannedCase, slabs: list[Slab], split: str) -> Case:
        stack, keep, plane = case.stack, case.keep, case.plane
        values = np.concatenate([slab.values for slab in slabs])
        masks = [slab.mask for slab in slabs if slab.mask is not None]
        mask = np.concatenate(masks) if masks else None
        depth = self._depth(case)
        source_of = np.array(keep)  # index in the stack of each slice of the result
        spacing, thickness = stack.spacing[0], stack.thickness
        shift = _shift(stack, plane)
        if depth is None:
            places = stack.places[source_of] + shift
        else:
            values = depth.volume(values)
            if mask is not None:
                mask = mask[depth.nearest]
            if self._options.thickness is not None:
                # Averaging makes slices thicker; interpolating leaves them as thick as they were measured.
                thickness = max(self._options.thickness, thickness or spacing)
                spacing = self._options.thickness
            source_of = source_of[depth.nearest]
            places = stack.places[0] + shift + np.outer(depth.targets, stack.direction[:3])
        if case.mending is not None and not np.isnan(self._plan.encoding.fill):
            values = np.nan_to_num(values, nan=self._plan.encoding.fill)
        if values.dtype == np.float32:
            values = self._plan.encoding.encode(values)
        arrays: dict[str, npt.NDArray[Any]] = {"image": np.ascontiguousarray(values)}
        if mask is not None:
            arrays["mask"] = mask
        if self._plan.vector_fields:
            arrays["vector"] = self._vectors(case, plane, source_of)
        if self._plan.labelled:
            arrays["label"] = np.array([case.annotation.labels[index] for index in source_of], dtype=np.int64)
        flaws = [] if case.mending else [*stack.flaws] + ["slices left out"] * (len(keep) < keep[-1] - keep[0] + 1)
        filled = made_up(depth, stack.spacing[0]) if case.mending and depth else np.zeros(0, bool)
        texts = [case.annotation.texts.get(int(index), "") for index in source_of]
        modalities = [case.annotation.modalities.get(int(index), stack.first.modality) for index in source_of]
        return Case(
            id="",
            arrays=arrays,
            split=split,
            spacing=(spacing, stack.spacing[1] / plane.y.scale, stack.spacing[2] / plane.x.scale),
            origin=points(places[:1])[0],
            direction=stack.direction,
            text=tuple(texts) if any(texts) else (),
            modality=tuple(modalities) if any(modalities) else (),
            thickness=thickness,
            frame=hashed_frame(self._key, stack.first.reference),
            flaws=", ".join(flaws),
            synthetic=_synthetic(case),
            origins=uneven_origins(places, stack.direction[:3], spacing),
            mended=", ".join(case.mending.flaws) if case.mending else "",
            filled=tuple(filled.tolist()) if filled.any() else (),
        )

    def _depth(self, case: PlannedCase) -> DepthMap | None:
        """How the kept slices are resampled along z; None where they stay as they are."""
        stack, thickness = case.stack, self._options.thickness
        depth = case.mending.depth if case.mending else None
        if thickness is None or len(case.keep) < 2:
            return depth
        offsets = depth.targets if depth else np.array([stack.offsets[index] for index in case.keep])
        resampled = plan_depth(offsets, stack.spacing[0], thickness)
        return depth.then(resampled) if depth else resampled

    def _vectors(self, case: PlannedCase, plane: PlaneMap, source_of: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        fields = self._plan.vector_fields
        vectors = np.zeros((len(source_of), len(fields)), dtype=np.float32)
        for row, index in enumerate(source_of):
            finding = case.annotation.findings.get(int(index))
            if finding is not None:
                here = plane.shifted(case.mending.shifts[index]) if case.mending else plane
                vectors[row] = vector_of(finding, fields, here, f"{case.stack.slices[index].entry.name}")
        return vectors

    def _split(self, case: PlannedCase, patient: str) -> str:
        """The split of a case. If the patient is not known, the pixels decide, so that equal images share a split."""
        name = self._options.split_name or case.annotation.split
        if not name:
            if _synthetic(case) == GENERATED:  # the user did not ask to train on it
                return NO_SPLIT
            name, self._drawn = split_of(self._key, patient, self._fractions), True
        if name == "train" and (patient in self._not_trained or self._has_other_labels(case)):
            name = split_of(self._key, f"{patient}, held out", held_out(self._fractions))  # drawn again
            self._moved += 1
        return name

    def _has_other_labels(self, case: PlannedCase) -> bool:
        """Whether a case must not be trained on."""
        return self._trained is not None and set(case.annotation.labels.values()) != {self._trained}


def _synthetic(case: PlannedCase) -> str:
    """Whether and how a model made the images, according to their files or labels."""
    return case.annotation.synthetic or case.stack.first.synthetic


def patient_of(case: PlannedCase) -> str:
    """The patient whose images a case holds; "" if not known."""
    return case.annotation.patient or case.stack.patient


def _shift(stack: SliceStack, plane: PlaneMap) -> npt.NDArray[np.float64]:
    """(3,) from the first pixel's centre of a slice to that of the same slice after the geometry, mm."""
    _, down, across = np.array(stack.direction).reshape(3, 3)
    y, x = plane.y.inverse(0.5) - 0.5, plane.x.inverse(0.5) - 0.5
    shift: npt.NDArray[np.float64] = y * stack.spacing[1] * down + x * stack.spacing[2] * across
    return shift
