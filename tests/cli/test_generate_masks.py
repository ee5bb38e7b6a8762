"""`medgen generate` under masks: what the mask shows stands beside the image, and no wrong mask is drawn silently."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from medgen.artifacts.model_file import save_model
from medgen.artifacts.provenance import Identified, derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.cli.app import run
from medgen.config import plain
from medgen.diffusion.options import ScheduleConfig
from medgen.imaging.masks.warping import Warp, warped
from medgen.models.facts import DenoiserFacts
from medgen.nets.options import SideConfig, UNetConfig
from medgen.nets.unet import UNet

SIDE = 16
FIELDS = ("depth",)
Medgen = Callable[..., subprocess.CompletedProcess[bytes]]


def write_model(
    path: Path,
    names: tuple[str, ...],
    fields: tuple[str, ...] = (),
    inputs: Sequence[Identified] = (),
    **config: object,
) -> None:
    network = UNetConfig(
        in_channels=1, out_channels=1, widths=(8, 16), blocks=1, attention=("none", "none"), mid_attention="none",
        head_width=8, time_width=16, groups=4, vector_size=len(fields), vector_hidden=8,
        side=SideConfig(classes=len(names) - 1, factor=1, hint_width=4) if names else None,
    )  # fmt: skip
    torch.manual_seed(0)
    built = UNet(network)
    for parameter in built.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    facts = DenoiserFacts(
        space="image", shape=(1, SIDE, SIDE), schedule=plain(ScheduleConfig(kind="cosine")), objective="v",
        intensity=Intensity(scale=1.0, offset=0.0, unit="", window=(0.0, 255.0)), vector_fields=fields,
        mask_names=names, stored_dtype="uint8",
    )  # fmt: skip
    save_model(
        path, kind="denoiser", config=plain(network), weights=built.state_dict(), facts=msgspec.to_builtins(facts),
        provenance=derive("train-diffusion", config, inputs=inputs),
    )  # fmt: skip


def disc(y: float, x: float, radius: float, side: int = SIDE, value: int = 1) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] + 0.5
    return np.where(np.hypot(rows - y, columns - x) < radius, value, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that take masks or not, masks in `png`, and a set of pairs of the same with vectors."""
    folder = tmp_path_factory.mktemp("masks")
    write_model(folder / "polyps", ("background", "polyp"))
    write_model(folder / "flipped", ("background", "polyp"), flip=True)
    write_model(folder / "fundus", ("background", "disc", "vessel"))
    write_model(folder / "both", ("background", "polyp"), FIELDS)
    write_model(folder / "plain", ())
    write_model(folder / "vectors", (), FIELDS)
    write_model(folder / "placed", ("background", "polyp"), ("x", "depth"))
    (folder / "png").mkdir()
    for number, (y, x) in enumerate([(5, 5), (10, 8), (8, 11)]):
        Image.fromarray(disc(y, x, 3.5) * 255).save(folder / "png" / f"{number}.png")
    header = SetHeader(
        "image", derive("make", {}), Intensity(1.0, 0.0, "", (0.0, 255.0)), FIELDS,
        mask_names=("background", "fold", "polyp"),
    )  # fmt: skip
    with create_set(folder / "pairs.h5", header) as writer:
        for number, (y, x) in enumerate([(5, 5), (10, 8), (8, 11)]):
            mask = disc(y, x, 3.5, value=2)
            arrays = {
                "image": (100 + 50 * mask)[None, None].astype(np.uint8), "mask": mask[None, None],
                "vector": np.full((1, 1), number / 4, np.float32),
            }  # fmt: skip
            writer.write(Case(f"case-{number}", arrays, "train" if number else "val"))
    return folder


def arguments(place: Path, model: str, output: object, *more: object) -> list[str]:
    return ["generate", str(place / model), "-o", str(output), "--steps", "2", *map(str, more)]


def held(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with open_set(path, random_access=True) as stored:
        return stored.read("image", range(stored.slices)), stored.read("mask", range(stored.slices))


def test_each_mask_stands_beside_an_image_that_it_decides(place: Path, tmp_path: Path) -> None:
    assert run(arguments(place, "polyps", tmp_path / "a.h5", "--mask", place / "png")) == 0
    images, masks = held(tmp_path / "a.h5")
    expected = np.stack([disc(5, 5, 3.5), disc(10, 8, 3.5), disc(8, 11, 3.5)])[:, None]
    np.testing.assert_array_equal(masks, expected)
    with open_set(tmp_path / "a.h5") as stored:
        assert stored.header.mask_names == ("background", "polyp")
    one = place / "png" / "1.png"
    assert run(arguments(place, "polyps", tmp_path / "b.h5", "--mask", one, "-n", 2)) == 0
    other, masks = held(tmp_path / "b.h5")
    np.testing.assert_array_equal(masks, expected[[1, 1]])
    np.testing.assert_array_equal(other[1], images[1])  # of the same seed, index and mask
    assert np.abs(other[0].astype(int) - images[0]).max() > 3  # of another mask alone


def test_the_same_command_has_the_same_bytes_and_shards_join(place: Path, tmp_path: Path) -> None:
    more = ["--mask", place / "png", "--mask-augment", "-n", 5, "--precision", "float32"]
    for name in ("a.h5", "b.h5"):
        assert run(arguments(place, "flipped", tmp_path / name, *more)) == 0
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    shards = [tmp_path / f"{part}.h5" for part in range(2)]
    for part, shard in enumerate(shards):
        assert run(arguments(place, "flipped", shard, *more, "--shard", f"{part}/2", "--batch-size", 1)) == 0
    assert run(["merge", *map(str, shards), "-o", str(tmp_path / "joined.h5")]) == 0
    assert (tmp_path / "joined.h5").read_bytes() == (tmp_path / "a.h5").read_bytes()


def test_new_masks_differ_and_the_report_remakes_them(place: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    more = ["--mask", place / "png", "--mask-augment", "-n", 6, "--report", report]
    assert run(arguments(place, "polyps", tmp_path / "a.h5", *more)) == 0
    _, masks = held(tmp_path / "a.h5")
    given = np.stack([disc(5, 5, 3.5), disc(10, 8, 3.5), disc(8, 11, 3.5)])
    assert len({mask.tobytes() for mask in masks}) == 6
    assert all(np.count_nonzero(mask) for mask in masks)
    warps = json.loads(report.read_text())["mask_warps"]
    assert [warp["mask"] for warp in warps] == [0, 1, 2, 0, 1, 2]
    for mask, warp in zip(masks, warps, strict=True):
        numbers = msgspec.convert({name: warp[name] for name in Warp.__struct_fields__}, Warp)
        np.testing.assert_array_equal(mask[0], warped(given[warp["mask"]], numbers))
    assert not any(warp["flip"] for warp in warps)
    assert str(place) not in report.read_text()
    assert run(arguments(place, "flipped", tmp_path / "b.h5", *more, "--force")) == 0
    assert {warp["flip"] for warp in json.loads(report.read_text())["mask_warps"]} == {True, False}


def test_masks_that_cannot_be_changed_are_told(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.full((SIDE, SIDE), 255, np.uint8)).save(tmp_path / "full.png")
    assert run(arguments(place, "polyps", tmp_path / "a.h5", "--mask", tmp_path / "full.png", "--mask-augment")) == 0
    assert "warning: 1 masks are as they were given" in capfd.readouterr().err


def test_vector_and_mask_are_those_of_a_set_by_the_names_of_classes(
    place: Path, tmp_path: Path, medgen: Medgen
) -> None:
    assert run(arguments(place, "both", tmp_path / "a.h5", "--like", place / "pairs.h5", "--like-split", "train")) == 0
    _, masks = held(tmp_path / "a.h5")
    np.testing.assert_array_equal(masks[:, 0], [disc(10, 8, 3.5), disc(8, 11, 3.5)])  # polyp is 2 there and 1 here
    with open_set(tmp_path / "a.h5", random_access=True) as stored:
        np.testing.assert_allclose(stored.column("vector"), [[0.25], [0.5]])
        assert "make" in [step.command for step in stored.provenance.steps]
    stream = medgen("merge", place / "pairs.h5").stdout
    piped = medgen(*arguments(place, "polyps", tmp_path / "b.h5", "--like", "-"), input=stream)
    assert piped.returncode == 0, piped.stderr
    assert run(arguments(place, "polyps", tmp_path / "c.h5", "--like", place / "pairs.h5")) == 0
    for one, other in zip(held(tmp_path / "b.h5"), held(tmp_path / "c.h5"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_vector_for_all_goes_with_masks(place: Path, tmp_path: Path) -> None:
    asked = ["--mask", place / "png", "--vector", "depth=0.75"]
    assert run(arguments(place, "both", tmp_path / "a.h5", *asked)) == 0
    with open_set(tmp_path / "a.h5", random_access=True) as stored:
        np.testing.assert_allclose(stored.column("vector"), [[0.75]] * 3)
        assert stored.read("mask", [2]).any()
    negative = [*asked, "--negative-vector", "depth=0"]
    assert run(arguments(place, "both", tmp_path / "b.h5", *negative)) == 0
    assert (held(tmp_path / "b.h5")[0] != held(tmp_path / "a.h5")[0]).any()


def test_rows_of_a_table_name_masks_beside_it(place: Path, tmp_path: Path) -> None:
    table = place / "rows.csv"
    table.write_text("mask,depth\npng/2.png,0.5\npng/0.png,1\n")
    assert run(arguments(place, "both", tmp_path / "a.h5", "--conditions", table)) == 0
    _, masks = held(tmp_path / "a.h5")
    np.testing.assert_array_equal(masks[:, 0], [disc(8, 11, 3.5), disc(5, 5, 3.5)])
    with open_set(tmp_path / "a.h5", random_access=True) as stored:
        np.testing.assert_allclose(stored.column("vector"), [[0.5], [1.0]])


def test_masks_of_another_size_and_jpegs_are_fitted_and_said(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(disc(20, 20, 14, 64) * 255).save(tmp_path / "large.jpg", quality=60)
    assert run(arguments(place, "polyps", tmp_path / "a.h5", "--mask", tmp_path / "large.jpg")) == 0
    _, masks = held(tmp_path / "a.h5")
    assert abs(int(masks.sum()) - np.pi * 3.5**2) < 4
    told = capfd.readouterr().err
    assert "1 masks of 64 x 64 pixels are resized to 16 x 16 by nearest neighbour" in told
    assert "1 masks are JPEG, which alters values: they are thresholded half-way" in told


@pytest.mark.parametrize("fit", ["keep-aspect", "stretch"])
def test_masks_of_another_aspect_are_fitted_as_preprocess_fits_them(place: Path, tmp_path: Path, fit: str) -> None:
    """Masks of 384 x 288 pixels for a square model; one that learned from stretched images stretches masks."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number, x in enumerate((90, 200, 310)):
        mask = disc(120, x, 70, 384)[:288]
        Image.fromarray(mask * 255).save(tmp_path / "masks" / f"{number}.png")
        Image.fromarray(100 + 90 * mask).save(tmp_path / "images" / f"{number}.png")
    words = ["preprocess", tmp_path / "images", "--masks", tmp_path / "masks", "--size", SIDE, f"--{fit}"]
    assert run([*map(str, words), "-o", str(tmp_path / "pairs.h5")]) == 0
    with open_set(tmp_path / "pairs.h5", random_access=True) as stored:
        expected = stored.read("mask", range(3))
        write_model(tmp_path / "model", ("background", "polyp"), inputs=[stored])
    assert run(arguments(tmp_path, "model", tmp_path / "a.h5", "--mask", tmp_path / "masks")) == 0
    _, masks = held(tmp_path / "a.h5")
    assert {mask.tobytes() for mask in masks} == {mask.tobytes() for mask in expected}
    assert len({mask.tobytes() for mask in masks}) == 3


def test_classes_that_vanish_and_empty_masks_are_told(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    labels = disc(32, 32, 20, 64)
    labels[0, 0] = 2
    Image.fromarray(labels).save(tmp_path / "a.png")
    assert run(arguments(place, "fundus", tmp_path / "a.h5", "--mask", tmp_path / "a.png")) == 0
    assert "warning: 'vessel' vanishes from 1 masks at the model's size" in capfd.readouterr().err
    Image.fromarray(labels * 0).save(tmp_path / "b.png")
    assert run(arguments(place, "fundus", tmp_path / "b.h5", "--mask", tmp_path / "b.png")) == 0
    assert "1 masks are empty" in capfd.readouterr().err


def test_a_file_beside_the_masks_names_their_values(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "classes.json").write_text('{"background": 0, "vessel": 1, "disc": 7, "drusen": 9}')
    labels = disc(8, 8, 5) * 7
    labels[:2] = 1
    Image.fromarray(labels).save(folder / "a.png")
    assert run(arguments(place, "fundus", tmp_path / "a.h5", "--mask", folder)) == 0
    np.testing.assert_array_equal(held(tmp_path / "a.h5")[1][0, 0], np.select([labels == 7, labels == 1], [1, 2]))
    labels[15] = 9
    Image.fromarray(labels).save(folder / "b.png")
    assert run(arguments(place, "fundus", tmp_path / "b.h5", "--mask", folder)) == 65
    assert "b.png: holds 9 ('drusen'), which is not a class of the model; the classes are 0 b" in capfd.readouterr().err


def test_exported_pairs_are_masks_again(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(place, "fundus", tmp_path / "a.h5", "--mask", place / "png" / "0.png")) == 65
    labels = np.select([disc(8, 8, 3) == 1, disc(8, 8, 6) == 1], [2, 1]).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "a.png")
    assert run(arguments(place, "fundus", tmp_path / "a.h5", "--mask", tmp_path / "a.png", "-n", 3)) == 0
    for number, form in enumerate(("png", "nifti")):
        assert run(["export", str(tmp_path / "a.h5"), "--to", form, "-o", str(tmp_path / form)]) == 0
        output = tmp_path / f"{number}.h5"
        assert run(arguments(place, "fundus", output, "--mask", tmp_path / form)) == 0
        np.testing.assert_array_equal(held(output)[1], held(tmp_path / "a.h5")[1])
    assert run(["export", str(tmp_path / "a.h5"), "--to", "dicom", "-o", str(tmp_path / "dicom")]) == 0
    capfd.readouterr()
    assert run(arguments(place, "fundus", tmp_path / "d.h5", "--mask", tmp_path / "dicom")) == 65
    assert "belongs to a DICOM series and means nothing without it" in capfd.readouterr().err


def test_new_masks_of_a_set_stay_on_what_its_images_show(place: Path, tmp_path: Path) -> None:
    field = disc(8, 8, 7)  # as of an endoscope, dark around
    mask = disc(7, 7, 2)
    header = SetHeader("image", derive("make", {}), Intensity(1.0, 0.0, "", (0.0, 255.0)))
    with create_set(tmp_path / "round.h5", header) as writer:
        image = np.random.default_rng(0).integers(0, 3, (SIDE, SIDE)) + 120 * field
        writer.write(Case("a", {"image": image[None, None].astype(np.uint8), "mask": mask[None, None]}, "train"))
    asked = ["--like", tmp_path / "round.h5", "--mask-augment", "-n", 40]
    assert run(arguments(place, "polyps", tmp_path / "a.h5", *asked)) == 0
    masks = held(tmp_path / "a.h5")[1][:, 0]
    assert not (masks * (1 - field)).any()
    assert len({one.tobytes() for one in masks}) > 20


@pytest.mark.parametrize(
    ("model", "more", "status", "reason"),
    [
        ("plain", ["--mask", "{place}/png"], 2, "was trained without conditions; leave out --mask"),
        ("plain", ["--mask-augment"], 2, "was trained without masks; leave out --mask-augment"),
        ("polyps", [], 2, "generates images from masks; give --mask, --like, or --conditions"),
        ("polyps", ["--mask-augment"], 2, "generates images from masks"),
        ("both", ["--vector", "depth=1"], 2, "generates images from masks"),
        ("polyps", ["--vector", "depth=1", "--mask", "{place}/png"], 2, "without condition vectors; leave out --vec"),
        ("polyps", ["--mask", "{place}/png", "--like", "{place}/pairs.h5"], 2, "--mask and --like exclude each other"),
        ("polyps", ["--mask", "{place}/png", "--unconditional"], 2, "--mask and --unconditional exclude each other"),
        ("polyps", ["--mask", "{place}/none.png"], 66, "no such file"),
        (
            "polyps",
            ["--mask", "{tmp}/label.png"],
            65,
            "holds 2, which is not a class of the model; the classes",
        ),
        (
            "fundus",
            ["--mask", "{place}/png"],
            65,
            "holds 255, which is not a class of the model; the classes",
        ),
        ("fundus", ["--mask", "{tmp}/smeared.jpg"], 65, "JPEG compression has altered the numbers of 3 classes"),
        ("fundus", ["--like", "{place}/pairs.h5"], 65, "its mask holds 'polyp', a class that the model does not know"),
        ("polyps", ["--conditions", "{tmp}/none.csv"], 65, "has no column 'mask'"),
        ("polyps", ["--conditions", "{tmp}/lost.csv"], 65, "row 3: names no mask file ('lost.png')"),
        ("plain", ["--conditions", "{tmp}/lost.csv"], 2, "was trained without conditions"),
        ("vectors", ["--conditions", "{tmp}/lost.csv"], 65, "header: 'mask' names masks, but the model was trained wi"),
        (
            "placed",
            ["--mask", "{place}/png", "--vector", "x=0.3", "--mask-augment"],
            2,
            "positions in its vectors (x), which would not move with the mask",
        ),
        (
            "placed",
            ["--like", "{place}/pairs.h5", "--mask-augment"],
            2,
            "has positions in its vectors (x), which",
        ),
    ],
)
def test_misuse(
    place: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    model: str,
    more: list[str],
    status: int,
    reason: str,
) -> None:
    Image.fromarray(disc(8, 8, 4, value=2)).save(tmp_path / "label.png")
    Image.fromarray(disc(8, 8, 4)).save(tmp_path / "smeared.jpg")
    (tmp_path / "none.csv").write_text("depth\n1\n")
    (tmp_path / "lost.csv").write_text("mask\none.png\nlost.png\n")
    Image.fromarray(disc(8, 8, 4)).save(tmp_path / "one.png")
    more = [word.format(place=place, tmp=tmp_path) for word in more]
    assert run(arguments(place, model, tmp_path / "s.h5", *more)) == status
    assert reason in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "s.h5").exists()


def test_unconditional_samples_of_a_model_with_masks_have_none(place: Path, tmp_path: Path) -> None:
    assert run(arguments(place, "polyps", tmp_path / "a.h5", "--unconditional", "-n", 2)) == 0
    with open_set(tmp_path / "a.h5", random_access=True) as stored:
        assert not stored.has("mask")
        assert stored.header.mask_names == ()
