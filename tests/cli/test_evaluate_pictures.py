"""Every picture of a report against the array that it shows."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.cli.app import run
from medgen.inference.anomaly.maps import map_cases, map_header
from medgen.inference.anomaly.options import AnomalyOptions

HU = Intensity()
SIDE = 32
Pixels = npt.NDArray[np.uint8]
Row = list[tuple[str, Pixels]]


def write(path: Path, images: npt.NDArray[np.int16], name: str, split: str = "test", **geometry: object) -> Path:
    """Images (N, D, 1, H, W) as cases of D slices."""
    with create_set(path, SetHeader("image", derive("preprocess", {"of": name}), HU)) as writer:
        for number, image in enumerate(images):
            writer.write(Case(f"{name}{number}", {"image": image}, split, **geometry))  # type: ignore[arg-type]
    return path


def scenes(count: int, depth: int = 1, seed: int = 0) -> npt.NDArray[np.int16]:
    """HU below, in and above the window, in large fields: no picture is all one grey."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(-1200, 600, (count, depth, 1, 4, 4))
    fine = np.repeat(np.repeat(coarse, SIDE // 4, axis=-1), SIDE // 4, axis=-2)
    return (fine + random.normal(0, 30, fine.shape)).astype(np.int16)


def shown(values: npt.ArrayLike, black: float, white: float) -> Pixels:
    levels = np.rint((np.asarray(values, np.float64) - black) / (white - black) * 255)
    return levels.clip(0, 255).astype(np.uint8)


def windowed(image: npt.ArrayLike) -> Pixels:
    return shown(image, *HU.window)


def rows_of(page: Path) -> list[Row]:
    """The rows of pictures of a page, each picture with its caption; no picture stands outside a row."""
    text = page.read_text(encoding="utf-8")
    rows = []
    for row in re.findall(r'<div class="row[^"]*">(.*?)</div>', text, re.DOTALL):
        found = re.findall(r'src="data:image/png;base64,([^"]+)".*?<figcaption>(.*?)</figcaption>', row, re.DOTALL)
        decoded = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data, _ in found]
        captions = [html.unescape(caption.replace("<br>", "\n")) for _, caption in found]
        rows.append(list(zip(captions, decoded, strict=True)))
    assert sum(map(len, rows)) == text.count("data:image/") > 0
    return rows


def same(found: Pixels, expected: Pixels) -> None:
    """Equal but for how halves of a grey level were rounded."""
    np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=1)


def report(tmp_path: Path, *arguments: object) -> list[Row]:
    page = tmp_path / "page.html"
    call = ["evaluate", *map(str, arguments), "--report", str(page), "-o", str(tmp_path / "e.json"), "-q"]
    assert run(call) == 0
    return rows_of(page)


def test_examples_and_worst_pairs(tmp_path: Path) -> None:
    truth = scenes(12)
    samples = (truth + np.random.default_rng(1).normal(0, 80, truth.shape)).astype(np.int16)
    paths = [write(tmp_path / f"{name}.h5", images, "case") for name, images in (("a", samples), ("b", truth))]
    rows = report(tmp_path, paths[0], "--reference", paths[1], "--metrics", "reconstruction")
    pairs, examples = [row for row in rows if len(row) == 3], [row for row in rows if len(row) == 1]
    assert (len(pairs), len(examples)) == (4, 16)
    for (first, reference), (name, image), (third, difference) in pairs:
        number = int(name.removeprefix("case"))
        same(reference, windowed(truth[number, 0, 0]))
        same(image, windowed(samples[number, 0, 0]))
        a, b = (one[number, 0, 0].clip(*HU.window) / 1400 for one in (samples, truth))
        same(difference, shown(np.abs(a - b), 0, np.abs(a - b).max()))
        assert first == "reference"
        assert float(third.rpartition(" ")[2]) == pytest.approx(np.abs(a - b).max(), rel=0.05)
    for place, ((name, image),) in enumerate(examples):
        number = int(name.removeprefix("case"))
        same(image, windowed((samples if place < 8 else truth)[number, 0, 0]))


def test_closest_pairs(tmp_path: Path) -> None:
    known, held_out = scenes(20, seed=2), scenes(12, seed=3)
    samples = np.concatenate([known[:2, ..., ::-1], scenes(4, seed=4)])
    files = [("samples", samples, "test"), ("known", known, "train"), ("held-out", held_out, "test")]
    a, b, c = (write(tmp_path / f"{name}.h5", images, name, split) for name, images, split in files)
    rows = report(tmp_path, a, "--training", b, "--reference", c, "--metrics", "memorization")
    pairs = [row for row in rows if len(row) == 3]
    assert len(pairs) >= 6
    of_training = [row for row in pairs if row[1][0].startswith("training")]
    assert len(of_training) == 6
    for (name, image), (other, laid), (told, difference) in pairs:
        number = int(name.split(":")[0].removeprefix("samples"))
        same(image, windowed(samples[number, 0, 0]))
        apart = np.abs(image.astype(float) - laid) / 255
        white = float(re.findall(r"white = (\S+)", told)[0])
        np.testing.assert_allclose(difference, 255 * apart / max(apart.max(), 1e-9), atol=3 + 1 / max(white, 1e-2))
        if number < 2 and other.startswith("training"):
            assert f"known{number} (mirrored left-right)" in other
            same(laid, windowed(known[number, 0, 0, :, ::-1]))
            assert not difference.any()


def test_anomaly_maps(tmp_path: Path) -> None:
    normal = scenes(24, seed=5).clip(-1000, 300)
    ill = np.arange(24) % 2 == 1
    masks = np.zeros((24, 1, 1, SIDE, SIDE), np.uint8)
    masks[ill, ..., 8:18, 10:16] = 1
    images = (normal + 700.0 * masks + np.random.default_rng(6).normal(0, 15, normal.shape)).astype(np.int16)
    options = AnomalyOptions()
    header = SetHeader("image", derive("preprocess", {}), HU, label_names=("ill", "normal"))
    header = map_header(header, derive("anomaly-map", {}), options, calibrated=False)
    pairs = []
    for number, (image, version, mask) in enumerate(zip(images, normal, masks, strict=True)):
        split = "val" if number % 4 == 0 else "test"
        arrays = {"image": image, "mask": mask, "label": np.array([0 if ill[number] else 1])}
        pairs.append((Case(f"m{number}", arrays, split), Case(f"m{number}", {"image": version}, split)))
    with create_set(tmp_path / "maps.h5", header) as writer:
        for case in map_cases(pairs, HU, options, None):
            writer.write(case)
    with open_set(tmp_path / "maps.h5", random_access=True) as stored:
        maps = stored.read("map", range(24))[:, 3]
    rows = report(tmp_path, tmp_path / "maps.h5")
    assert len(rows) == 8
    whites = []
    for (kind, image), (_, version), (_, total), (_, truth) in rows:
        same_as = [np.abs(windowed(one[0, 0]).astype(int) - image).max() <= 1 for one in images]
        (number,) = np.flatnonzero(same_as)  # the caption does not say which it is
        assert kind.startswith("ill" if ill[number] else "normal")
        same(version, windowed(normal[number, 0, 0]))
        same(truth, shown(masks[number, 0, 0], 0, 1))
        lit = (total > 20) & (total < 255)
        whites.append(np.median(maps[number][lit] / total[lit] * 255))
        same(total, shown(maps[number], 0, whites[-1]))
    np.testing.assert_allclose(whites, whites[0], rtol=0.02)  # twice the one threshold


def test_coronal_cuts(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    coarse = random.uniform(-1100, 500, (2, 20, 1, 4, 4))
    thin = np.repeat(np.repeat(coarse, SIDE // 4, axis=-1), SIDE // 4, axis=-2).astype(np.int16)
    thick = thin.reshape(2, 4, 5, 1, SIDE, SIDE).mean(axis=2).astype(np.int16)
    made = (thin + random.normal(0, 30, thin.shape)).astype(np.int16)
    stacks = (("made", made, 1.0, 0.0), ("thin", thin, 1.0, 0.0), ("thick", thick, 5.0, 2.0))
    paths = [
        write(tmp_path / f"{name}.h5", images, "case", spacing=(step, 2.0, 2.0), origin=(0.0, 0.0, start))
        for name, images, step, start in stacks
    ]
    rows = report(tmp_path, paths[0], "--thick", paths[2], "--reference", paths[1])
    cuts = [row for row in rows if len(row) > 1]
    assert len(cuts) == 2
    for number, row in enumerate(cuts):
        named = dict(row)
        assert set(named) == {"the truth", "this set", "cubic", "linear"}
        same(named["the truth"], windowed(thin[number, ::-1, 0, SIDE // 2]))
        same(named["this set"], windowed(made[number, ::-1, 0, SIDE // 2]))
        places = (np.arange(20)[::-1, None] - 2) / 5
        below = np.clip(np.floor(places), 0, 2).astype(int)
        share = np.clip(places - below, 0, 1)
        cut = thick[number, :, 0, SIDE // 2].astype(float)
        same(named["linear"], windowed((1 - share) * cut[below[:, 0]] + share * cut[below[:, 0] + 1]))
    for ((name, image),) in (row for row in rows if len(row) == 1):
        case, _, place = name.partition(", slice ")
        depth = int(place.split(" of ")[0]) - 1 if place else 0
        candidates = [one[int(case.removeprefix("case")), depth, 0] for one in (made, thin)]
        assert min(np.abs(windowed(one).astype(int) - image).max() for one in candidates) <= 1
