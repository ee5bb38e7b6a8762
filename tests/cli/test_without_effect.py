"""What was asked for but cannot take effect is named in a warning, or refused; nothing is passed over in silence."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medgen.artifacts.sets import create_set, open_set
from medgen.artifacts.sharding import mark_shard
from medgen.artifacts.stream import StreamWriter
from tests.conftest import write_denoiser

Here = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("interpolate a.h5 --spacing 1 --samples 4", "--samples has no effect without --model"),
        ("interpolate a.h5 --spacing 1 --no-ema", "--no-ema has no effect without --model"),
        ("interpolate a.h5 --spacing 1 --window 0,1", "--window has no effect without --model"),
        ("interpolate a.h5 --spacing 1 --set depth=8", "--set depth=8 has no effect without --model"),
        ("normalize a.h5 --method flow --steps 8", "--steps has no effect with --method flow"),
        ("normalize a.h5 --method diffusion --flow-steps 8", "--flow-steps has no effect with --method diffusion"),
        ("normalize a.h5 --method vae --draws 4", "--draws has no effect with --method vae"),
        ("anomaly-map a.h5 b.h5 --calibration-split test", "--calibration-split has no effect without --calibrate"),
        (
            "anomaly-map a.h5 b.h5 --set calibration.smoothing=1",
            "--set calibration.smoothing=1 has no effect without --calibrate",
        ),
        ("anomaly-map a.h5 b.h5 --score mean --score-share 0.1", "--score-share has no effect with --score mean"),
        ("select a.h5 --verify --reference b.h5 --weak", "--weak has no effect with --verify"),
        ("select a.h5 --verify --reference b.h5 --vae v", "--vae has no effect with --verify"),
        ("select a.h5 --selector s --set probe.steps=20", "--set probe.steps=20 has no effect without --verify"),
        ("rate a.h5 --ratings r.csv --rater a --comparisons 3", "--comparisons has no effect without --pairs"),
        ("rate a.h5 --ratings r.csv --rater a --real-share 0.5", "--real-share has no effect without --real"),
        ("export a.h5 --to dicom --bits 16 -o d", "--bits has no effect with --to dicom"),
        ("export a --to peft --limit 3 -o d", "--limit has no effect with --to peft"),
        (
            "align m --selector s --reference a.h5 --method ddpo --sampler unipc -o o",
            "--sampler has no effect with --method ddpo",
        ),
        ("align m a.h5 --ratings r.csv --reference a.h5 --weak -o o", "--weak has no effect without --selector"),
        ("preprocess in --lidc-readers 2", "--lidc-readers has no effect without --lidc-xml"),
        ("preprocess in --vector-fields x", "--vector-fields has no effect without a table"),
        ("preprocess in --encoding cp1252", "--encoding has no effect without a table"),
        ("preprocess in --masks-optional", "--masks-optional has no effect without masks"),
        ("preprocess in --stretch", "--stretch has no effect without --size"),
        (
            "preprocess in --split-name test --split-fractions 0.5,0.5",
            "--split-fractions has no effect with --split-name",
        ),
        ("generate m -n 4 --tries 8", "--tries has no effect without --until verified"),
    ],
)
def test_an_option_without_effect_is_warned_of(here: Here, line: str, told: str) -> None:
    """Not refused: one script may try several methods with the same options."""
    status, said = here(*shlex.split(line))
    assert (status != 0, f": warning: {told}\n" in said) == (True, True), said  # none of the files is there


def test_a_preset_may_hold_what_this_command_line_does_not_use(here: Here, tmp_path: Path) -> None:
    status, said = here("interpolate", tmp_path / "no.h5", "--preset", "ct-interpolation-tiny", "--spacing", "1")
    assert (status, "no.h5: no such file" in said) == (66, True)


def test_guidance_needs_a_condition(here: Here, tmp_path: Path, tiny: Path) -> None:
    model, output = tmp_path / "m.safetensors", tmp_path / "s.h5"
    write_denoiser(model, None, fields=())
    ask = ["generate", model, "--steps", "1", "-o", output]
    status, said = here(*ask, "--guidance", "3")
    assert (status, "warning: --guidance has no effect without a condition" in said) == (0, True)
    status, said = here(*ask, "--force")
    assert (status, "no effect" in said) == (0, False)


def test_options_about_what_the_images_do_not_have_are_warned_of(here: Here, tmp_path: Path) -> None:
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "a.png")
    (tmp_path / "l.csv").write_text("path,label\na.png,ill\n")
    call = ["preprocess", tmp_path / "a.png", "--labels", tmp_path / "l.csv", "--workers", "1", "-o", tmp_path / "a.h5"]
    for option, told in (
        (("--healthy-slices", "2"), "--healthy-slices has no effect: without vectors no slice"),
        (("--mask-classes", "background,polyp"), "--mask-classes has no effect without masks: give --masks"),
        (("--thickness", "2"), "--thickness has no effect: these are single images"),
    ):
        status, said = here(*call, *option, "--force")
        assert (status, f"warning: {told}" in said) == (0, True), said


def test_duplicates_cannot_be_dropped_from_shards(here: Here, tiny: Path, tmp_path: Path) -> None:
    for part in range(2):
        with open_set(tiny / "images.h5") as whole:
            header = mark_shard(whole.header, part, 2)
            with create_set(tmp_path / f"{part}.h5", header) as writer:
                for number, case in enumerate(whole):
                    if number % 2 == part:
                        writer.write(case)
    status, said = here("merge", tmp_path / "0.h5", tmp_path / "1.h5", "--drop-duplicates", "-o", tmp_path / "all.h5")
    assert (status, "shards are joined as they are" in said) == (2, True)
    assert not (tmp_path / "all.h5").exists()


def test_a_preset_without_options_for_the_command_is_named(here: Here, tmp_path: Path) -> None:
    status, said = here("train-vae", tmp_path / "no.h5", "--preset", "siamese-tiny", "-o", tmp_path / "v.safetensors")
    assert status == 66
    assert said.startswith("medgen train-vae: preset 'siamese-tiny' has no options for train-vae\n")


class TestEvaluate:
    """An input or option that none of the chosen metrics reads is named in a warning, with what is missing."""

    def test_inputs_and_options_that_no_metric_reads(self, here: Here, tiny: Path, tmp_path: Path) -> None:
        images, output = tiny / "images.h5", tmp_path / "e.json"
        call = ["evaluate", images, "--vae", tiny / "vae.safetensors", "-o", output, "--force"]
        status, said = here(*call, "--training", images, "--by", "split")
        assert status == 0
        assert "warning: --training is not used: memorization needs real images that were held out" in said
        assert "warning: the option fidelity.by has no effect: fidelity needs real images: give --reference" in said
        status, said = here(*call, "--metrics", "reconstruction", "--training", images)
        assert (status, "--training is not used: memorization is not measured" in said) == (0, True)
        status, said = here(*call, "--metrics", "reconstruction", "--reference", images)
        assert (status, "--reference is not used: reconstruction uses --vae" in said) == (0, True)
        status, said = here(*call)
        assert (status, "is not used" in said, "has no effect" in said) == (0, False, False)

    def test_ratings_of_other_sets(self, here: Here, tiny: Path, tmp_path: Path) -> None:
        ratings = tmp_path / "r.csv"
        ratings.write_text("set,rater,case,other,aspect,value,when\n0123456789abcdef,anna,case-0,,overall,4,\n")
        call = ["evaluate", tiny / "images.h5", "--vae", tiny / "vae.safetensors", "--ratings", ratings]
        status, said = here(*call, "-o", tmp_path / "e.json")
        assert status == 0
        assert "--ratings is not used: ratings needs ratings that are about the set; those of the file are" in said

    def test_images_too_small_for_ssim(self, here: Here, make_set: Callable[..., Path], tmp_path: Path) -> None:
        small, same = make_set("a.h5", size=8), make_set("b.h5", size=8, seed=1)
        call = ["evaluate", small, "--reference", same, "--metrics", "reconstruction", "-o", tmp_path / "e.json"]
        status, said = here(*call)
        assert (status, "SSIM needs sides of 11 pixels at least; it is left out" in said) == (0, True)


def test_a_table_that_parts_the_images_of_a_patient_is_warned_of(here: Here, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(random.integers(0, 256, (16, 16)).astype(np.uint8)).save(tmp_path / f"{number}.png")
    rows = ["0.png,a,p1,train", "1.png,b,p1,test", "2.png,c,DOE^JO,train", "3.png,d,,test", "4.png,e,Doe Jo,val"]
    (tmp_path / "t.csv").write_text("\n".join(["path,text,patient,split", *rows, ""]))
    status, said = here("preprocess", tmp_path / "t.csv", "--workers", "1", "-o", tmp_path / "t.h5")
    assert status == 0
    assert "warning: 2 cases are in another split than an earlier case of their patient, as the table says or" in said


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        ("train-vae vae.safetensors -o {out}/v", 65, "vae.safetensors: is a model, and a set is expected"),
        ("info {out}", 66, "is a folder, not a set; make one of it with medgen preprocess"),
        ("generate images.h5 -o {out}/s.h5", 65, "images.h5: is a set, and a model is expected"),
        ("generate {out}/stream -o {out}/s.h5", 65, "stream: is a set, and a model is expected"),
        ("preview images.h5 -o {out}/sheet.jpg", 2, "sheet.jpg: the picture is a PNG; end its name in .png"),
        ("evaluate images.h5 --report {out}/page.htm", 2, "page.htm: end the name in .html for the page"),
        ("evaluate images.h5 --reference a --training b --pairs p.jpeg", 2, "--pairs p.jpeg: the picture is a PNG"),
    ],
)
def test_files_of_another_kind_are_called_what_they_are(
    here: Here, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, status: int, told: str
) -> None:
    monkeypatch.chdir(tiny)
    with (tmp_path / "stream").open("wb") as file, open_set("images.h5") as images:
        writer = StreamWriter(file, images.header)
        for case in images:
            writer.write(case)
        writer.finish(images.tail)
    found, said = here(*shlex.split(line.format(out=tmp_path)))
    assert (found, told in said.splitlines()[-1]) == (status, True), said


def test_images_and_normal_versions_are_not_swapped(here: Here, tiny: Path, tmp_path: Path) -> None:
    images, normal = tiny / "images.h5", tmp_path / "n.h5"
    assert here("normalize", images, "--method", "vae", "--vae", tiny / "vae.safetensors", "-o", normal)[0] == 0
    status, said = here("anomaly-map", normal, images, "-o", tmp_path / "m.h5")
    assert (status, "give the images first, then their normal versions" in said) == (2, True)
    assert here("anomaly-map", images, normal, "-o", tmp_path / "m.h5")[0] == 0
    assert here("anomaly-map", normal, normal, "-o", tmp_path / "same.h5")[0] == 0


def test_a_shard_is_not_taken_for_the_whole_set(here: Here, tiny: Path, tmp_path: Path) -> None:
    call = ["extract-latents", tiny / "images.h5", "--vae", tiny / "vae.safetensors"]
    assert here(*call, "--shard", "0/2", "-o", tmp_path / "0.h5")[0] == 0
    told = "is shard 0/2, a part of all cases; merge the shards to use all"
    status, said = here("train-vae", tmp_path / "0.h5", "-o", tmp_path / "v")
    assert (status, f"warning: {tmp_path / '0.h5'}: {told}" in said) == (65, True)  # latents are no images
    call = ["normalize", tiny / "images.h5", "--method", "vae", "--vae", tiny / "vae.safetensors"]
    assert here(*call, "--shard", "0/2", "-o", tmp_path / "n.h5")[0] == 0
    call = ["evaluate", tmp_path / "n.h5", "--reference", tiny / "images.h5", "--metrics", "reconstruction"]
    status, said = here(*call, "-o", tmp_path / "e.json")
    assert (status, f"warning: the set {told}" in said) == (0, True)


def test_the_shape_of_a_vae_to_begin_with_counts_and_is_told(here: Here, tiny: Path, tmp_path: Path) -> None:
    vae, output = tiny / "vae.safetensors", tmp_path / "v.safetensors"
    call = ["train-vae", tiny / "images.h5", "--init", vae, "--steps", "1", "--batch-size", "1", "-o", output]
    call += ["--set", "losses.ssim=0", "--set", "loop.validation_samples=1"]
    status, said = here(*call, "--set", "network.latent_channels=7")
    assert (status, f"the network has the shape of {vae}, whatever the options say of it" in said) == (0, True)
    status, said = here(*call, "--force")
    assert (status, "whatever the options say" in said) == (0, False)


def test_splits_that_a_table_gives_need_no_more_patients(here: Here, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(random.integers(0, 256, (16, 16)).astype(np.uint8)).save(tmp_path / f"{number}.png")
    for split, advised in (("train", False), ("", True)):
        (tmp_path / "t.csv").write_text(f"path,text,split\n0.png,a,{split}\n1.png,b,{split}\n")
        call = ["preprocess", tmp_path / "t.csv", "--workers", "1", "-o", tmp_path / "t.h5", "--force"]
        status, said = here(*call)
        assert (status, "choose other --split-fractions" in said) == (0, advised)
