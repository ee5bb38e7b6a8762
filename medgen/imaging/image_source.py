"""Open images in any form: a set, or DICOM, NIfTI or PNG files, which are made into a temporary set."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from medgen.artifacts.outputs.partial import partial_folder
from medgen.artifacts.schema import Intensity
from medgen.artifacts.sets import open_set
from medgen.artifacts.stored import StoredSet
from medgen.artifacts.tensors.header import HDF5_MAGIC
from medgen.errors import UsageError
from medgen.imaging.cases.options import PreprocessOptions, ReadingOptions, SourceOptions
from medgen.imaging.cases.planning import SourceInputs
from medgen.imaging.cases.preprocessing import preprocess
from medgen.imaging.reading.series import SliceStack
from medgen.reporting import Reporter

Reading = TypeVar("Reading", bound=ReadingOptions)

_SET_SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class Images:
    """An opened source."""

    stored: StoredSet
    files: Sequence[tuple[str, SliceStack]] = ()
    """Case ids, each with the stack that it was read from; none of a set."""


def is_set(source: str | Path) -> bool:
    """Whether to open `source` as a set: `-` and pipes, HDF5 and stream files, and paths that do not exist."""
    path = Path(source)
    if str(source) == "-" or path.suffix.lower() in _SET_SUFFIXES:
        return True
    if path.is_dir():
        return False
    if not path.is_file():  # a pipe must not be read before its time
        return True
    with path.open("rb") as file:
        beginning = file.read(9)
    # A stream begins with the length of its JSON: 8 bytes, little end first, of which the last three are 0.
    return beginning.startswith(HDF5_MAGIC) or (beginning[5:8] == b"\0\0\0" and beginning[8:] == b"{")


def refuse_for_sets(reading: SourceOptions) -> None:
    """UsageError if `reading` has options set, since a set is not read from files again."""
    if changed := reading.changed():
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise UsageError(f"{flags}: for files and folders, but only sets are given; preprocess them again")


def fitting(options: Reading, intensity: Intensity | None = None, shape: tuple[int, ...] | None = None) -> Reading:
    """`options`, completed by the window and scale of `intensity` and by the size of `shape` (C, H, W).

    Files that do not state their modality (NIfTI) count as CT if `intensity` is in HU.
    """
    changes: dict[str, str] = {}
    if intensity is not None:
        low, high = intensity.window
        if options.window == "auto" and intensity.unit != "relative":  # these windows are each case's own
            changes["window"] = f"{low!r},{high!r}"
        if not options.modality and intensity.unit == "HU":
            changes["modality"] = "CT"
    if shape is not None:
        if not options.size:
            changes["size"] = f"{shape[2]}x{shape[1]}"
        if options.channels == "auto" and shape[0] in (1, 3):
            changes["channels"] = str(shape[0])
    return msgspec.structs.replace(options, **changes)


@contextlib.contextmanager
def open_images(
    source: str | Path,
    reporter: Reporter,
    options: PreprocessOptions | None = None,
    *,
    number: int = 1,
    alias: dict[str, str] | None = None,
) -> Iterator[Images]:
    """The set at `source`; other files are preprocessed into an unnamed set that is removed at the end of the block.

    What `options.keep_going` leaves out is reported, and listed in `reporter.report["left_out"]` under source `number`.
    `alias` maps the names of files below `source` to ids of cases, and is filled here: equally named pictures and
    volumes of the next source get the same ids, so that they pair. Names of DICOM files are not used.
    """
    if is_set(source):
        with open_set(source, random_access=True) as stored:
            yield Images(stored)
        return
    with contextlib.ExitStack() as stack:
        with partial_folder(Path(tempfile.gettempdir(), "medgen-images")) as folder:
            file = folder / "images.h5"
            done = preprocess(
                SourceInputs((str(source),), folder_names=False),
                str(file),
                options or PreprocessOptions(),
                reporter,
            )
            stored = stack.enter_context(open_set(file, random_access=True, name=str(source)))
        reporter.say(f"{source}: {done.slices} slices of {done.cases} cases")  # the open file outlives its folder
        if done.places:
            told = [{**place, "source": number} if "source" in place else place for place in done.places]
            reporter.report.setdefault("left_out", []).extend(told)
        files = done.stacks
        if alias is not None:
            files = tuple((_called(part, case, alias), part) for case, part in files)
            stored.cases = [replace(row, id=case) for row, (case, _) in zip(stored.cases, files, strict=True)]
        yield Images(stored, files)


def _called(stack: SliceStack, case: str, alias: dict[str, str]) -> str:
    return case if stack.first.series else alias.setdefault(stack.key, case)


def open_alike(
    stack: contextlib.ExitStack,
    sources: Sequence[str | Path],
    reporter: Reporter,
    reading: ReadingOptions,
    *,
    with_splits: Sequence[str | Path] = (),
    unpaired: Sequence[str | Path] = (),
    intensity: Intensity | None = None,
) -> list[Images]:
    """Open several sources that are to be compared, in order, each once, until `stack` ends.

    Files are made to match the first set among them (or, without a set, the first source): its window, size and
    channels, as far as `reading` leaves these open; without a set, also the `intensity` of a model. Sources in
    `with_splits` are split by patient, the others not; cases of sources in `unpaired` keep their own ids, even if files
    of other sources have the same names.
    """
    if all(map(is_set, sources)):
        refuse_for_sets(reading)
    opened: dict[str, Images] = {}
    fitted = fitting(reading, intensity)
    alias: dict[str, str] = {}
    for source in sorted(dict.fromkeys(map(str, sources)), key=lambda source: not is_set(source)):
        split = "" if source in map(str, with_splits) else "test"
        number = list(map(str, sources)).index(source) + 1
        options = PreprocessOptions.of(fitted, split_name=split)
        shared = None if source in map(str, unpaired) else alias
        one = stack.enter_context(open_images(source, reporter, options, number=number, alias=shared))
        if not opened:
            image = one.stored.arrays().get("image")
            fitted = fitting(reading, one.stored.header.intensity, image[0] if image else None)
        opened[source] = one
    return [opened[str(source)] for source in sources]
