"""LIDC-IDRI annotations: contours and ratings of up to four readers -> one finding a slice, the mean of the readers.

A contour runs through the first pixels *outside* the nodule, so the nodule spans one pixel less on each side.
Marks of nodules below 3 mm have no ratings: what they mark is no finding, but its slices are doubtful, as are those of
nodules that too few readers marked.
"""

from __future__ import annotations

import xml.parsers.expat
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from medgen.errors import DataError, InputMissingError
from medgen.imaging.labels.annotations import Annotation, Finding
from medgen.imaging.reading.series import SliceStack

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels, along edges

MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class NoduleReading:
    """One reader's view of one nodule."""

    reader: int
    malignancy: float  # 1..5
    texture: float  # 1..5
    boxes: Mapping[str, Box]  # by SOPInstanceUID


@dataclass
class Reading:
    """One file: the series it belongs to, and what each reader drew."""

    file: Path
    series: str
    outlines: list[NoduleReading] = field(default_factory=list)
    unrated: set[str] = field(default_factory=set)
    """SOPInstanceUIDs of slices with marks of nodules below 3 mm."""


def read_xml(file: Path) -> Reading | None:
    """Parse one file; None if it is not an LIDC reading of a CT. DataError if it is damaged or declares a DTD."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputMissingError(f"{file}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise DataError(f"{file}: larger than {MAX_BYTES >> 20} MiB; refused")
    try:
        _refuse_declarations(content)
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, xml.parsers.expat.ExpatError) as error:
        raise DataError(f"{file}: not valid XML ({error})") from None
    except _DeclarationError:
        raise DataError(f"{file}: declares a document type, which no LIDC file does; refused") from None
    if not root.tag.endswith("LidcReadMessage"):
        return None
    series = root.findtext("{*}ResponseHeader/{*}SeriesInstanceUid", "").strip()
    reading = Reading(file, series)
    try:
        for reader, session in enumerate(root.iterfind("{*}readingSession")):
            for nodule in session.iterfind("{*}unblindedReadNodule"):
                outline = _outline(reader, nodule)
                if outline is not None:
                    reading.outlines.append(outline)
                else:
                    reading.unrated |= {
                        sop.text.strip() for sop in nodule.iterfind("{*}roi/{*}imageSOP_UID") if sop.text
                    }
    except ValueError as error:
        raise DataError(f"{file}: a contour or rating is not a number ({error})") from None
    return reading


def xml_files(places: Iterable[Path]) -> list[tuple[Path, bool]]:
    """(file, named by the user) of files and folders."""
    found: list[tuple[Path, bool]] = []
    for place in places:
        if place.is_dir():
            inside = sorted(place.rglob("*.xml"))
            if not inside:
                raise DataError(f"{place}: holds no XML file")
            found += [(file, False) for file in inside]
        else:
            found.append((place, True))
    return found


def annotate(
    reading: Reading,
    stacks: Sequence[SliceStack],
    annotations: Mapping[int, Annotation],
    readers: int,
    warn: Callable[[str], None],
) -> bool:
    """Write the findings of all nodules that at least `readers` marked; False if the series is not there.

    `warn` is told if the series is there, but no slice with a nodule.
    """
    spots: dict[str, list[tuple[int, int]]] = defaultdict(list)  # several where a file was stored in two ways
    for index, stack in enumerate(stacks):
        for position, item in enumerate(stack.slices):
            if item.series == reading.series:
                spots[item.sop].append((index, position))
    marked = {sop for outline in reading.outlines for sop in outline.boxes}
    if spots and marked and not marked & spots.keys():
        warn(
            f"{reading.file}: none of the slices that it marks (by SOPInstanceUID) is among the sources, but others of "
            "their series are, and count as healthy"
        )
    doubtful = set(reading.unrated)
    for nodule in nodules(reading.outlines):
        if len({outline.reader for outline in nodule}) < readers:
            doubtful |= {sop for outline in nodule for sop in outline.boxes}
            continue
        for sop in {sop for outline in nodule for sop in outline.boxes}:
            for index, position in spots.get(sop, ()):  # none for a slice that the user did not give
                shape = stacks[index].first.rows, stacks[index].first.columns
                finding = mean_finding(nodule, sop, shape)
                old = annotations[index].findings.get(position)
                if old is None or finding.values[3] > old.values[3]:
                    annotations[index].findings[position] = finding
    for sop in doubtful:
        for index, position in spots.get(sop, ()):
            annotations[index].doubtful.add(position)
    return bool(spots)


def nodules(outlines: Sequence[NoduleReading]) -> list[list[NoduleReading]]:
    """Outlines that overlap on a slice, directly or through others, are one nodule."""
    group = list(range(len(outlines)))

    def root(index: int) -> int:
        while group[index] != index:
            index = group[index]
        return index

    for second in range(len(outlines)):
        for first in range(second):
            if outlines[first].reader != outlines[second].reader and _overlap(outlines[first], outlines[second]):
                group[root(second)] = root(first)
    found: dict[int, list[NoduleReading]] = defaultdict(list)
    for index, outline in enumerate(outlines):
        found[root(index)].append(outline)
    return list(found.values())


def mean_finding(nodule: Sequence[NoduleReading], sop: str, shape: tuple[int, int]) -> Finding:
    """[has_nodule, x, y, size, malignancy, texture] on one slice: the box is the mean over those who drew it there,
    the ratings the mean over all who rated the nodule."""
    boxes = [outline.boxes[sop] for outline in nodule if sop in outline.boxes]
    left, top, right, bottom = (sum(side) / len(boxes) for side in zip(*boxes, strict=True))
    rows, columns = shape
    malignancy = sum(outline.malignancy for outline in nodule) / len(nodule)
    texture = sum(outline.texture for outline in nodule) / len(nodule)
    values = (
        1.0,
        (left + right) / 2 / columns,
        (top + bottom) / 2 / rows,
        max(right - left, bottom - top) / columns,
        (malignancy - 1) / 4,
        (texture - 1) / 4,
    )
    return Finding(values, ((right - left) / columns, (bottom - top) / rows))


def _outline(reader: int, nodule: ElementTree.Element) -> NoduleReading | None:
    malignancy, texture = (nodule.findtext(f"{{*}}characteristics/{{*}}{name}") for name in ("malignancy", "texture"))
    if not malignancy or not texture:
        return None
    boxes: dict[str, Box] = {}
    for region in nodule.iterfind("{*}roi"):
        if region.findtext("{*}inclusion", "TRUE").strip().upper() != "TRUE":
            continue  # a hole
        xs = [int(point.findtext("{*}xCoord", "")) for point in region.iterfind("{*}edgeMap")]
        ys = [int(point.findtext("{*}yCoord", "")) for point in region.iterfind("{*}edgeMap")]
        if not xs:
            continue
        box = (*_inside(min(xs), max(xs)), *_inside(min(ys), max(ys)))
        sop = region.findtext("{*}imageSOP_UID", "").strip()
        whole = (box[0], box[2], box[1], box[3])
        old = boxes.get(sop, whole)
        boxes[sop] = (min(whole[0], old[0]), min(whole[1], old[1]), max(whole[2], old[2]), max(whole[3], old[3]))
    return NoduleReading(reader, float(malignancy), float(texture), boxes) if boxes else None


def _inside(first: int, last: int) -> tuple[float, float]:
    """Edges of the pixels strictly between two contour pixels; of the pixel itself where there is nothing between."""
    return (first + 1.0, float(last)) if last - first >= 2 else (float(first), last + 1.0)


def _overlap(a: NoduleReading, b: NoduleReading) -> bool:
    return any(
        min(box[2], other[2]) > max(box[0], other[0]) and min(box[3], other[3]) > max(box[1], other[1])
        for sop, box in a.boxes.items()
        if (other := b.boxes.get(sop)) is not None
    )


class _DeclarationError(Exception):
    pass


def _refuse_declarations(content: bytes) -> None:
    """Without a document type there are no entities, and so nothing that could expand or point elsewhere."""

    def refuse(*_: object) -> None:
        raise _DeclarationError

    parser = xml.parsers.expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.Parse(content, True)
