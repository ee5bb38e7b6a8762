"""`preprocess --masks`: which mask belongs to which image, which values are which classes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image, ImageFilter

from medgen.artifacts.schema import Case, SetHeader
from medgen.artifacts.sets import open_set
from medgen.cli.app import run

BINARY = ("background", "foreground")
Pixels = np.ndarray


def disc(size: int = 32, radius: float = 9.0, x: float = 14.0, full: int = 255) -> Pixels:
    rows, columns = np.mgrid[:size, :size]
    return (((rows - 16) ** 2 + (columns - x) ** 2 < radius**2) * full).astype(np.uint8)


def picture(path: Path, seed: int = 0, size: int = 32) -> Path:
    return save(path, np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8))


def save(path: Path, pixels: Pixels, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


class Made:
    """What a run of preprocess gave."""

    def __init__(self, status: int, told: str, file: Path) -> None:
        self.status, self.told = status, told
        self.header: SetHeader
        self.cases: list[Case] = []
        if file.exists():
            with open_set(file) as reader:
                self.header = reader.header
                self.cases = list(reader)

    @property
    def masks(self) -> list[Pixels]:
        return [case["mask"][:, 0] for case in self.cases]


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Made]:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Made:
        out = tmp_path / "out.h5"
        out.unlink(missing_ok=True)
        status = run(["preprocess", *map(str, arguments), "--workers", "1", "-o", str(out)])
        return Made(status, capsys.readouterr().err, out)

    return call


@pytest.mark.parametrize("full", [1, 255])
def test_binary_masks_are_named_and_colour_stays_colour(tmp_path: Path, make: Callable[..., Made], full: int) -> None:
    for name in "ab":
        picture(tmp_path / "images" / f"{name}.png", ord(name))
        save(tmp_path / "masks" / f"{name}.png", disc(x=ord(name) - 80, full=full))
    made = make("images", "--masks", "masks")
    assert made.header.mask_names == BINARY
    assert made.cases[0]["image"].shape == (1, 3, 32, 32)
    for mask, name in zip(made.masks, "ab", strict=True):
        np.testing.assert_array_equal(mask[0], disc(x=ord(name) - 80, full=1))


def test_a_label_map_has_the_values_of_the_whole_set_as_classes(tmp_path: Path, make: Callable[..., Made]) -> None:
    """Each file holds some of the values only."""
    for name, value in (("a", 7), ("b", 30)):
        picture(tmp_path / "images" / f"{name}.png", value)
        save(tmp_path / "masks" / f"{name}.png", disc(full=value))
    made = make("images", "--masks", "masks")
    assert made.header.mask_names == ("background", "7", "30")
    assert [int(mask.max()) for mask in made.masks] == [1, 2]
    named = make("images", "--masks", "masks", "--mask-classes", "disc=30,cup=7")
    assert named.header.mask_names == ("background", "disc", "cup")
    assert [int(mask.max()) for mask in named.masks] == [2, 1]
    in_order = make("images", "--masks", "masks", "--mask-classes", "cup,disc")
    assert in_order.header.mask_names == ("background", "cup", "disc")
    assert [int(mask.max()) for mask in in_order.masks] == [1, 2]
    turned = make("images", "--masks", "masks", "--mask-classes", "background=30,cup=7,rest=0")
    assert turned.header.mask_names == ("background", "cup", "rest")
    assert (turned.masks[1][0] == np.where(disc() > 0, 0, 2)).all()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("masks/classes.json", '{"polyp": 200, "background": 0}'),
        ("classes.csv", "name,value\npolyp,200\n"),
        ("dataset.json", '{"labels": {"background": 0, "polyp": 200}, "numTraining": 1}'),
        ("elsewhere.json", '{"polyp": 200}'),
    ],
)
def test_a_file_names_the_classes(tmp_path: Path, make: Callable[..., Made], file: str, content: str) -> None:
    picture(tmp_path / "images" / "a.png")
    save(tmp_path / "masks" / "a.png", disc(full=200))
    (tmp_path / file).write_text(content)
    more = ("--mask-classes", file) if file == "elsewhere.json" else ()
    made = make("images", "--masks", "masks", *more)
    assert made.header.mask_names == ("background", "polyp")
    assert (made.masks[0][0] == disc(full=1)).all()
    assert f"named by {tmp_path / file if not file.startswith('els') else file}" in made.told or file in made.told


def test_classes_that_differ_in_their_spelling_are_told(tmp_path: Path, make: Callable[..., Made]) -> None:
    for number in (1, 2):
        picture(tmp_path / "images" / f"{number}.png", seed=number)
        save(tmp_path / "masks" / f"{number}.png", disc(full=number))
    made = make("images", "--masks", "masks", "--mask-classes", "Polyp=1,polyp=2")
    assert "'Polyp' and 'polyp' are two classes of the masks; are they one" in made.told


def test_a_mask_with_a_palette_has_its_indices_as_classes(tmp_path: Path, make: Callable[..., Made]) -> None:
    picture(tmp_path / "images" / "a.png")
    indexed = Image.fromarray(disc(full=2), mode="P")
    indexed.putpalette([0, 0, 0, 10, 20, 30, 200, 0, 0])
    (tmp_path / "masks").mkdir()
    indexed.save(tmp_path / "masks" / "a.png")
    made = make("images", "--masks", "masks")
    assert made.header.mask_names == ("background", "2")
    assert (made.masks[0][0] == disc(full=1)).all()


def test_jpeg_masks_are_cut_and_said_so(tmp_path: Path, make: Callable[..., Made]) -> None:
    for number in range(3):
        picture(tmp_path / "images" / f"x_{number}_frame.jpg", number)
        save(tmp_path / "masks" / f"x_{number}_mask.jpg", disc(), quality=60)
    assert len(np.unique(np.asarray(Image.open(tmp_path / "masks/x_0_mask.jpg")))) > 10
    made = make("images", "--masks", "masks", "--mask-classes", "polyp")
    assert "were cut at 127.5" in made.told
    assert made.header.mask_names == ("background", "polyp")
    assert all((mask[0] != disc(full=1)).mean() < 0.01 for mask in made.masks)
    several = make("images", "--masks", "masks", "--mask-classes", "polyp=128,tool=255")
    assert several.status == 65
    assert "JPEG compression has altered" in several.told


def test_an_almost_black_jpeg_mask_is_empty_beside_others(tmp_path: Path, make: Callable[..., Made]) -> None:
    """Its own maximum is not a class: ringing around nothing was taken for an object."""
    for number in range(2):
        picture(tmp_path / "images" / f"{number}.jpg", number)
        save(tmp_path / "masks" / f"{number}.jpg", disc() if number else disc(full=20), quality=90)
    made = make("images", "--masks", "masks", "--masks-optional")
    assert [int(mask.max()) for mask in made.masks] == [0, 1]


def test_smoothed_masks_are_named_with_the_remedy(tmp_path: Path, make: Callable[..., Made]) -> None:
    for name in "ab":
        picture(tmp_path / "images" / f"{name}.png", ord(name))
        smooth = Image.fromarray(disc()).filter(ImageFilter.GaussianBlur(1))
        save(tmp_path / "masks" / f"{name}.png", np.asarray(smooth))
    made = make("images", "--masks", "masks")
    assert (made.status, made.cases) == (65, [])
    for part in ("masks/", "edges only", "threshold them first"):
        assert part in made.told


@pytest.mark.parametrize("how", [Image.Resampling.BILINEAR, Image.Resampling.LANCZOS, Image.Resampling.BOX])
def test_a_mask_that_was_resized_like_a_picture_is_smooth(
    tmp_path: Path, make: Callable[..., Made], how: Image.Resampling
) -> None:
    """Even where that made a single value: BOX halves to 0, 64, 128, 191 and 255, or fewer."""
    picture(tmp_path / "images" / "a.png")
    resized = Image.fromarray(disc(size=64, radius=20.5, x=30)).resize((32, 32), how)
    save(tmp_path / "masks" / "a.png", np.asarray(resized))
    told = make("images", "--masks", "masks").told
    assert "masks/a.png" in told
    assert "edges only" in told


def test_black_grey_and_white_areas_are_classes(tmp_path: Path, make: Callable[..., Made]) -> None:
    """Disc and cup of the eye, as REFUGE and others code them."""
    picture(tmp_path / "images" / "a.png")
    nested = np.where(disc(radius=4) > 0, 255, np.where(disc(radius=11) > 0, 128, 0)).astype(np.uint8)
    save(tmp_path / "masks" / "a.png", nested)
    assert make("images", "--masks", "masks").header.mask_names == ("background", "128", "255")


def test_thin_classes_are_no_smoothed_edges(tmp_path: Path, make: Callable[..., Made]) -> None:
    """Vessels of a pixel: nothing of them has four neighbours alike."""
    lines = np.zeros((32, 32), np.uint8)
    lines[5], lines[15], lines[20:30, 20:30] = 1, 2, 3
    picture(tmp_path / "images" / "a.png")
    save(tmp_path / "masks" / "a.png", lines)
    assert make("images", "--masks", "masks").header.mask_names == ("background", "1", "2", "3")


def wrong_size(folder: Path) -> None:
    save(folder / "masks" / "b.png", disc(size=40))


def without_image(folder: Path) -> None:
    save(folder / "masks" / "z.png", disc())


def empty(folder: Path) -> None:
    save(folder / "masks" / "b.png", disc(full=0))


def no_class(folder: Path) -> None:
    save(folder / "masks" / "b.png", disc(full=254))


def colours(folder: Path) -> None:
    picture(folder / "masks" / "b.png", 9)


def missing(folder: Path) -> None:
    (folder / "masks" / "b.png").unlink()


def damaged(folder: Path) -> None:
    file = folder / "masks" / "b.png"
    file.write_bytes(file.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (wrong_size, "masks/b.png: has 40 x 40 pixels, its image images/b.png has 32 x 32"),
        (without_image, "masks/z.png: a mask without its image"),
        (empty, "masks/b.png: an empty mask, nothing but background; label the image 'normal'"),
        (no_class, "masks/b.png: holds a value that is not a class: 254"),
        (colours, "masks/b.png: its colours are no classes"),
        (missing, "images/b.png: no mask found for it; label the image 'normal'"),
        (damaged, "masks/b.png: the pixels cannot be decoded"),
    ],
)
def test_a_bad_mask_is_named_with_its_file_and_can_be_left_out(
    tmp_path: Path, make: Callable[..., Made], harm: Callable[[Path], None], told: str
) -> None:
    for name in "abc":
        picture(tmp_path / "images" / f"{name}.png", ord(name))
        save(tmp_path / "masks" / f"{name}.png", disc())
    harm(tmp_path)
    call = ("images", "--masks", "masks", "--mask-classes", "polyp=255")
    refused = make(*call)
    assert (refused.status, refused.cases) == (65, [])
    assert told in refused.told
    kept = make(*call, "--keep-going")
    assert (kept.status, len(kept.cases)) == (1, 3 if harm is without_image else 2)
    assert told in kept.told


def test_images_without_findings_need_no_mask(tmp_path: Path, make: Callable[..., Made]) -> None:
    """As their label says, or as the option does; a lesion's image without its mask stays an error."""
    for name in "abc":
        picture(tmp_path / "images" / f"{name}.png", ord(name))
    save(tmp_path / "masks" / "a.png", disc())
    save(tmp_path / "masks" / "c.png", disc(full=0))
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\na.png,polyp\nb.png,normal\nc.png,normal\n")
    made = make("images", "--masks", "masks", "--labels", labels)
    assert [int(mask.sum()) > 0 for mask in made.masks] == [True, False, False]
    assert "1 images have no mask: they count as negatives" in made.told
    labels.write_text("path,label\na.png,polyp\nb.png,polyp\nc.png,normal\n")
    assert "b.png: no mask found" in make("images", "--masks", "masks", "--labels", labels).told
    made = make("images", "--masks", "masks", "--masks-optional")
    assert [int(mask.sum()) > 0 for mask in made.masks] == [True, False, False]


def test_no_mask_at_all_is_an_error_even_if_they_are_optional(tmp_path: Path, make: Callable[..., Made]) -> None:
    picture(tmp_path / "images" / "a.png")
    save(tmp_path / "masks" / "z" / "readme.png", disc())
    made = make("images/a.png", "--masks", "masks", "--masks-optional")
    assert made.status == 65
    assert "no image has a mask" in made.told


def test_a_column_names_the_masks(tmp_path: Path, make: Callable[..., Made]) -> None:
    for name in "abc":
        picture(tmp_path / "all" / f"{name}.png", ord(name))
    save(tmp_path / "all" / "one.png", disc())
    save(tmp_path / "all" / "two.png", disc(x=20))
    table = tmp_path / "table.csv"
    table.write_text("path,mask,label\nall/a.png,all/two.png,polyp\nall/b.png,all/one.png,polyp\nall/c.png,,normal\n")
    for source in (("all", "--labels", table), (table,)):
        made = make(*source)
        assert made.header.mask_names == BINARY
        assert len(made.cases) == 3
        np.testing.assert_array_equal(made.masks[0][0], disc(x=20, full=1))
        np.testing.assert_array_equal(made.masks[1][0], disc(full=1))
        assert not made.masks[2].any()
    assert make("all", "--labels", table, "--masks", "all").status == 2
    table.write_text("path,mask\nall/a.png,all/none.png\n")
    made = make(table)
    assert made.status == 65
    assert "no such mask 'all/none.png'" in made.told
    table.write_text("path,mask\nall/a.png,all/one.png\nall/b.png,\n")
    assert "b.png: no mask found for it" in make(table).told


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a/a.png", "a/a_mask.png"),
        ("images/4.jpg", "masks/4-mask.png"),
        ("images/a_frame.jpg", "masks/a_mask.png"),
        ("images/a.jpg", "masks/a_1stHO.png"),
        ("imagesTr/a_0000.png", "labelsTr/a.png"),
        ("images/p/0.png", "masks/p/0.png"),
    ],
)
def test_masks_are_found_by_name(tmp_path: Path, make: Callable[..., Made], image: str, mask: str) -> None:
    picture(tmp_path / image)
    picture((tmp_path / image).with_name("other" + Path(image).suffix), 3)
    if image == "images/p/0.png":  # a file of the same name in another folder
        picture(tmp_path / "images/q/0.png", 8)
        save(tmp_path / "masks/q/0.png", disc(x=20))
    save(tmp_path / mask, disc())
    made = make(Path(image).parts[0], "--masks", Path(mask).parts[0], "--masks-optional")
    assert made.status == 0, made.told
    assert sum((mask[0] == disc(full=1)).all() for mask in made.masks) == 1
    assert sum(mask.any() for mask in made.masks) == (2 if "p/0" in image else 1)


def test_a_mask_is_not_taken_for_that_of_another_image(tmp_path: Path, make: Callable[..., Made]) -> None:
    """`a` begins `a_b_mask`, the mask of `a_b`; left and right differ in their last word, as image and mask do."""
    for name in ("a", "a_b", "a_c", "eye_left", "eye_right"):
        picture(tmp_path / "images" / f"{name}.png", sum(name.encode()))
    save(tmp_path / "masks" / "a_b_mask.png", disc())
    save(tmp_path / "masks" / "a_c_mask.png", disc())
    save(tmp_path / "masks" / "eye_left.png", disc(x=20))
    made = make("images", "--masks", "masks", "--masks-optional")
    assert [bool(mask.any()) for mask in made.masks] == [False, True, True, True, False]
    (tmp_path / "images" / "eye_left.png").unlink()
    assert "eye_left.png: a mask without its image" in make("images", "--masks", "masks", "--masks-optional").told
    again = make("images/eye_right.png", "--masks", "masks")
    assert "images/eye_right.png: no mask found" in again.told


def test_one_mask_for_two_files_is_refused(tmp_path: Path, make: Callable[..., Made]) -> None:
    for folder in ("p", "q"):
        picture(tmp_path / "images" / folder / "0.png", ord(folder))
    save(tmp_path / "masks" / "0.png", disc())
    made = make("images", "--masks", "masks")
    assert made.status == 65
    assert "masks/0.png: is the mask of both images/p/0.png and images/q/0.png" in made.told


def test_several_masks_of_one_image_are_refused(tmp_path: Path, make: Callable[..., Made]) -> None:
    picture(tmp_path / "images" / "a.png")
    for reader in ("1st", "2nd"):
        save(tmp_path / "masks" / f"a_{reader}.png", disc())
    assert "images/a.png: has 2 masks" in make("images", "--masks", "masks").told
    made = make("images", "--masks", "masks/{stem}_2nd.png")
    assert made.status == 0, made.told


def nifti(path: Path, voxels: Pixels, affine: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)  # type: ignore[attr-defined,no-untyped-call]


def test_a_mask_that_does_not_say_which_slice_is_which_is_refused(tmp_path: Path, make: Callable[..., Made]) -> None:
    """Slices are ordered by place, from the feet; pages as they come, often from the head."""
    values = np.random.default_rng(0).integers(0, 900, (8, 8, 4)).astype(np.int16)
    nifti(tmp_path / "images" / "a.nii.gz", values, np.diag([-1.0, -1.0, 2.0, 1.0]))
    first, *others = [Image.fromarray(page) for page in np.zeros((4, 8, 8), np.uint8)]
    (tmp_path / "masks").mkdir()
    first.save(tmp_path / "masks" / "a.tif", save_all=True, append_images=others)
    assert (
        "masks/a.tif: does not say which of its 4 slices belongs to which of images/a.nii.gz"
        in make("images", "--masks", "masks").told
    )


@pytest.mark.parametrize(("signs", "fits"), [((-1, -1, 1), True), ((1, 1, 1), False), ((-1, -1, -1), False)])
def test_a_nifti_mask_of_a_picture_must_lie_as_it_is_stored(
    tmp_path: Path, make: Callable[..., Made], signs: tuple[int, ...], fits: bool
) -> None:
    """With signs of (-1, -1, 1) software that knows pictures and volumes writes it; others turn it when it is read."""
    picture(tmp_path / "images" / "a.png")
    nifti(tmp_path / "masks" / "a.nii.gz", disc(full=1).T[:, :, None], np.diag([*map(float, signs), 1.0]))
    made = make("images", "--masks", "masks")
    if fits:
        np.testing.assert_array_equal(made.masks[0][0], disc(full=1))
    else:
        assert "masks/a.nii.gz: its header turns its rows, columns or slices, and images/a.png" in made.told


def test_a_mask_without_a_place_is_not_laid_over_an_image_that_is_turned(
    tmp_path: Path, make: Callable[..., Made]
) -> None:
    nifti(tmp_path / "images" / "a.nii.gz", disc().T[:, :, None], np.eye(4))
    save(tmp_path / "masks" / "a.png", disc(full=1))
    assert (
        "images/a.nii.gz: its header turns its rows, columns or slices, and masks/a.png"
        in make("images", "--masks", "masks").told
    )


def test_a_mask_with_pixels_of_another_size_is_refused(tmp_path: Path, make: Callable[..., Made]) -> None:
    for folder, spacing in (("images", 1.0), ("masks", 1.2)):
        affine = np.diag([-spacing, -spacing, 2.0, 1.0])
        nifti(tmp_path / folder / "a.nii.gz", np.eye(8, dtype=np.int16)[:, :, None], affine)
    assert "masks/a.nii.gz: is not where its image is images/a.nii.gz" in make("images", "--masks", "masks").told


def test_single_images_of_a_folder_may_leave_masks_unused(tmp_path: Path, make: Callable[..., Made]) -> None:
    for name in "ab":
        picture(tmp_path / "images" / f"{name}.png", ord(name))
        save(tmp_path / "masks" / f"{name}.png", disc())
    assert len(make("images/a.png", "--masks", "masks").cases) == 1


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_nifti_label_volumes(tmp_path: Path, make: Callable[..., Made], kind: type) -> None:
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    values = np.random.default_rng(0).integers(-900, 900, (4, 8, 8)).astype(np.int16)
    labels = (np.random.default_rng(1).integers(0, 3, (4, 8, 8)) * 20).astype(kind)
    for folder, array in (("images", values), ("masks", labels)):
        (tmp_path / folder).mkdir()
        nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), tmp_path / folder / "a.nii.gz")  # type: ignore[attr-defined,no-untyped-call]
    made = make("images", "--masks", "masks/a.nii.gz", "--modality", "CT", "--mask-classes", "liver=20,tumour=40")
    np.testing.assert_array_equal(made.cases[0]["mask"][:, 0] * 20, labels)
    if kind is np.float32:
        nibabel.save(nibabel.Nifti1Image(labels.transpose(2, 1, 0) * 0.01, affine), tmp_path / "masks" / "a.nii.gz")  # type: ignore[attr-defined,no-untyped-call]
        assert "masks/a.nii.gz: holds 0.2, which is not a class" in make("images", "--masks", "masks").told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("polyp=x", "expected NAME=VALUE"),
        ("polyp=1,polyp=2", "names polyp twice"),
        ("polyp=1,tool=1", "names 1 twice"),
        ("polyp=1,tool", "give one to each"),
        ("polyp=0", "0 is the value of a class"),
        ("one,two", "names 2 classes, the masks hold 1 values besides 0 (255)"),
        ("none.json", "none.json"),
    ],
)
def test_what_names_no_classes_is_refused(tmp_path: Path, make: Callable[..., Made], text: str, told: str) -> None:
    picture(tmp_path / "images" / "a.png")
    save(tmp_path / "masks" / "a.png", disc())
    made = make("images", "--masks", "masks", "--mask-classes", text)
    assert made.status in (2, 65, 78)
    assert told in made.told


def test_classes_stand_in_the_header_of_every_shard_and_without_masks_nothing_does(
    tmp_path: Path, make: Callable[..., Made]
) -> None:
    for name, value in (("a", 7), ("b", 30)):
        picture(tmp_path / "images" / f"{name}.png", value)
        save(tmp_path / "masks" / f"{name}.png", disc(full=value))
    for part in (0, 1):
        assert make("images", "--masks", "masks", "--shard", f"{part}/2").header.mask_names == ("background", "7", "30")
    header = make("images").header
    assert header.mask_names == ()
    assert not {"mask_classes", "masks_optional"} & set(header.provenance.steps[-1].config)
