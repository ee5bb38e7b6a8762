"""`medgen generate` from fields, templates and confirmed cases, as the shell sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace

from medgen.artifacts.model_file import open_model, save_model
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.cli.app import run
from medgen.config import plain
from medgen.diffusion.options import ScheduleConfig
from medgen.errors import ConfigError, DataError
from medgen.inference.conditions.retrieval import Retrieval
from medgen.models.facts import DenoiserFacts
from medgen.models.text.wordpiece import plain_words, train_vocabulary
from medgen.nets.options import TextConfig, UNetConfig
from medgen.nets.unet import UNet
from medgen.prompts.templates import load_template
from medgen.prompts.variation import PromptVariation, Variation
from medgen.training.data.slices import Slices
from medgen.training.data.texts import reading_of, warning_of_cuts
from medgen.training.learners.diffusion_options import DenoiserOptions

GREY = Intensity(1.0, 0.0, "grey value", (0.0, 255.0))
TEXTS = ("chest X-ray; large heart. No effusion", "chest X-ray; large heart, small nodule", "fundus; drusen", "OCT")


def write_texts(path: Path, side: int = 8) -> Path:
    """Six cases: four of training, and a test case and a synthetic one that say exactly what is asked below."""
    rng = np.random.default_rng(0)
    header = SetHeader(kind="image", provenance=derive("preprocess", {}), intensity=GREY)
    with create_set(path, header) as writer:
        for index, text in enumerate((*TEXTS, "large heart", "large heart")):
            image = rng.integers(0, 256, (1, 1, side, side)).astype(np.uint8)
            made: dict[str, Any] = {"split": "test"} if index == 4 else {"synthetic": "generated"} if index == 5 else {}
            writer.write(Case(f"case{index}", {"image": image}, text=(text,), modality=("XR",), **made))
    return path


def write_reader(path: Path) -> Path:
    """A denoiser of 1 x 8 x 8 images with random weights that reads texts."""
    vocabulary = train_vocabulary(TEXTS, 400, set(plain_words(" ".join(TEXTS))))
    config = UNetConfig(
        in_channels=1, out_channels=1, widths=(8, 8), blocks=1, attention=("none", "full"), head_width=8, time_width=8,
        groups=4, context_width=8, text=TextConfig(vocabulary=len(vocabulary), length=32, layers=1, head_width=8),
    )  # fmt: skip
    torch.manual_seed(0)
    facts = DenoiserFacts(
        space="image", shape=(1, 8, 8), schedule=plain(ScheduleConfig()), objective="v", intensity=GREY,
        vocabulary=vocabulary, stored_dtype="uint8",
    )  # fmt: skip
    save_model(
        path, kind="denoiser", config=plain(config), weights=UNet(config).state_dict(),
        facts=msgspec.to_builtins(facts), provenance=derive("train-diffusion", {}),
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    write_texts(folder / "set.h5")
    write_texts(folder / "large.h5", 16)
    write_reader(folder / "model.safetensors")
    return folder


def generate(here: Path, *options: str) -> tuple[list[Case], dict[str, Any], dict[str, Any]]:
    """The samples, the settings of their provenance, and the report."""
    out, report = here / "out.h5", here / "r.json"
    common = ["--steps", "2", "--precision", "float32", "-o", str(out), "--report", str(report), "--force"]
    assert run(["generate", str(here / "model.safetensors"), *options, *common]) == 0
    with open_set(out) as reader:
        return list(reader), reader.header.provenance.steps[-1].config, json.loads(report.read_text())


def test_parts_of_a_report_make_one_prompt(here: Path) -> None:
    cases, settings, _ = generate(here, "--impression", "Large heart.", "--findings", "no effusion", "-n", "2")
    assert [case.text for case in cases] == [("Findings: no effusion. Impression: Large heart.",)] * 2
    assert settings["prompts"] == "Findings: no effusion. Impression: Large heart."


def test_fields_and_columns_fill_a_template(here: Path) -> None:
    fields = ["--field", "Organ=heart", "--field", "finding=nodule", "--field", "modality=chest X-ray"]
    assert generate(here, *fields)[0][0].text == ("chest X-ray of the heart with nodule",)
    (here / "mine.toml").write_text('[b]\nparts = ["{size} {organ}"]\njoin = ""\n')
    (here / "rows.csv").write_text("size,organ\nlarge,heart\nsmall,\n")
    options = ["--conditions", str(here / "rows.csv"), "--template", f"{here}/mine.toml:b", "--field", "organ=nodule"]
    assert [case.text for case in generate(here, *options)[0]] == [("large heart",), ("small nodule",)]


def test_only_real_training_cases_lend_their_terms(here: Path) -> None:
    cases, settings, report = generate(here, "--prompt", "large heart", "--retrieve", str(here / "set.h5"))
    (found,) = report["retrieved"]
    assert [hit["case"] for hit in found["cases"]] == ["case0", "case1"]
    assert cases[0].text == ("large heart; chest X-ray",) == (found["prompt"],)  # which both of them say
    assert settings["retrieved"] == {"use": "terms", "cases": found["cases"]}
    with open_set(here / "set.h5") as stored:
        assert stored.provenance.id in {step.id for step in cases_provenance(here).steps}


def test_what_contradicts_the_prompt_is_not_lent_nor_is_an_image_of_another_modality(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["right effusion. Large heart", "no effusion. Normal heart", "left effusion with fluid", "nodule", "nodule"]
    header = SetHeader(kind="image", provenance=derive("preprocess", {}), intensity=GREY)
    with create_set(here / "sides.h5", header) as writer:
        for index, text in enumerate(texts):
            image = np.full((1, 1, 8, 8), index, np.uint8)
            writer.write(
                Case(f"c{index}", {"image": image}, "train", text=(text,), modality=("XR" if index else "CT",))
            )
    asked = ("--retrieve", str(here / "sides.h5"))
    for prompt, lent in (
        ("right effusion", "right effusion; Large heart"),
        ("left effusion", "left effusion; left effusion with fluid"),
        ("right small effusion", "right small effusion; Large heart"),
        ("normal effusion", "normal effusion; Normal heart"),
        ("nodule", "nodule"),
    ):
        assert generate(here, "--prompt", prompt, *asked)[0][0].text == (lent,)
    assert "the cases found add no terms" in capsys.readouterr().err
    with open_set(here / "sides.h5", random_access=True) as stored:
        found = Retrieval(stored, "sides")
        assert [hit.case for hit in found.nearest("right effusion")] == ["c0", "c1", "c2"]
        assert [hit.case for hit in found.nearest("right effusion", " xr ")] == ["c1", "c2"]
        with pytest.raises(DataError, match="of the modality 'CT' shares a word with the prompt 'nodule'"):
            found.nearest("nodule", "CT")


def cases_provenance(here: Path) -> Any:
    with open_set(here / "out.h5") as reader:
        return reader.provenance


def test_the_nearest_lends_its_image_as_the_start(here: Path) -> None:
    options = ["--prompt", "OCT", "--retrieve", str(here / "set.h5"), "--retrieve-use", "image"]
    with open_set(here / "set.h5", random_access=True) as stored:
        image = stored.read("image", [3]).astype(float)
    far = []
    for strength in ("0.001", "0.5", "1"):
        cases, settings, _ = generate(here, *options, "--strength", strength)
        assert settings["retrieved"]["strength"] == float(strength)
        far.append(np.abs(cases[0]["image"] - image).mean())
    assert far[0] < 10 < far[1] < far[2]
    assert cases[0].text == ("OCT",)


def test_a_prompt_is_a_line_and_long_ones_are_told_in_short(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "lines.txt").write_bytes(f"large\x0cheart\r\n\r\n{'large heart ' * 900}\rOCT\u2028OCT".encode())
    cases, *_ = generate(here, "--prompts", str(here / "lines.txt"))
    assert [case.text[0][:12] for case in cases] == ["large\x0cheart", "large heart ", "OCT\u2028OCT"]
    told = capsys.readouterr().err
    assert "(10799 letters) is too long; not read: 'large heart large" in told
    assert max(map(len, told.splitlines())) < 400


def test_guidance_that_leads_nowhere_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--prompt", "OCT", "--negative-prompt", "fundus")
    for options, told in (
        (("--guidance", "1"), "--negative-prompt has no effect, since the scale of guidance is 1 at each"),
        (("--guidance", "3", "--guidance-shape", "interval"), "--guidance 3 has no effect"),
        (("--guidance", "3"), ""),
    ):
        generate(here, *asked, *options)
        said = capsys.readouterr().err
        assert told in said if told else "no effect" not in said


@pytest.mark.parametrize(
    ("options", "status", "told"),
    [
        (("--field", "organs=x"), 2, "no field 'organs'; did you mean 'organ'"),
        (("--field", "organ"), 2, "expected NAME=TEXT"),
        (("--field", "organ=heart"), 2, "makes no prompt from these fields alone"),
        (("--findings", "x", "--field", "findings=y"), 2, "are the same"),
        (("--findings", "x", "--prompt", "y"), 2, "exclude each other"),
        (("--prompt", "x", "--strength", "0.5"), 2, "--strength needs --retrieve"),
        (("--prompt", "x", "--retrieve", "set.h5", "--strength", "0.5"), 2, "give --retrieve-use image"),
        (("--prompt", "x", "--retrieve", "set.h5", "--retrieve-use", "image", "--strength", "0"), 2, "above 0"),
        (("--prompt", "x", "--retrieve", "set.h5", "--retrieve-use", "words"), 2, "expected terms or image"),
        (("--unconditional", "--retrieve", "set.h5"), 2, "exclude each other"),
        (("--prompt", "x", "--negative-prompt", "y", "--guide-by", "z"), 2, "--negative-prompt and --guide-by both"),
        (("--prompt", "x", "--guidance", "inf"), 78, "'guidance' is inf; give a finite number"),
        (("--prompt", "liver", "--retrieve", "set.h5"), 65, "shares a word with the prompt 'liver'"),
        (("--prompt", "OCT", "--retrieve", "large.h5", "--retrieve-use", "image"), 65, "are 1 x 16 x 16, but"),
    ],
)
def test_what_cannot_be_asked(
    here: Path, options: tuple[str, ...], status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(here / option) if option.endswith(".h5") else option for option in options]
    out = ["-o", str(here / "none.h5"), "--steps", "1"]
    assert run(["generate", str(here / "model.safetensors"), *given, *out]) == status
    assert told in capsys.readouterr().err.splitlines()[-1]
    assert not (here / "none.h5").exists()


def test_the_templates_are_printed_ready_for_use(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["presets", "--prompts"]) == 0
    (here / "printed.toml").write_text(capsys.readouterr().out)
    for name in ("caption", "report", "staged"):
        assert load_template(f"{here}/printed.toml:{name}") == load_template(name)
    assert run(["presets", "--prompts", "lidc-nodule"]) == 2


def test_texts_are_varied_by_position_in_training_alone(here: Path) -> None:
    variation = Variation(PromptVariation(drop=1.0, replace=1.0, synonyms={"heart": ("zzz",)}), seed=3)
    config = UNetConfig(context_width=8, text=TextConfig(vocabulary=400, length=16, head_width=8))
    with open_set(here / "set.h5", random_access=True) as stored:
        reads = DenoiserOptions(network=config)
        prompts = reading_of(stored, reads, None, torch.device("cpu"), "set", variation).prompts
        assert prompts is not None
        replaced = Variation(PromptVariation(replace=1.0, synonyms={"heart": ("zzz",)}), seed=3)
        varied = reading_of(stored, reads, None, torch.device("cpu"), "set", replaced).facts
        assert "zzz" in varied["vocabulary"]
        assert varied["words"] == ("chest", "heart", "large", "ray", "x", "zzz")
        old = DenoiserFacts.read(open_model(here / "model.safetensors").facts, "model")
        for words, found in (((), ()), (("liver",), ("chest", "heart", "large", "liver", "ray", "x"))):
            facts = msgspec.structs.replace(old, words=words)
            assert reading_of(stored, reads, facts, torch.device("cpu"), "set").facts["words"] == found
        with pytest.raises(ConfigError, match="reads no texts to vary"):
            reading_of(stored, DenoiserOptions(network=UNetConfig()), None, torch.device("cpu"), "set", variation)
        slices = Slices(stored, "train", 0, prompts=prompts, variation=variation)
        plain_ones = Slices(stored, "train", 0, prompts=prompts)
        told = "60% of the texts are too long for the network, and are cut; not read, for instance: '"
        for length, expected in ((5, f"{told}ray; large heart. No effusion'"), (64, "")):
            other = replace(config, text=TextConfig(vocabulary=400, length=length, head_width=8))
            cut = reading_of(stored, DenoiserOptions(network=other), None, torch.device("cpu"), "set").prompts
            assert cut is not None
            assert warning_of_cuts(stored, cut) == expected
        batch, again = slices.at(range(4, 12)), slices.at(range(8, 12))
        texts = stored.texts("text", slices.sampler[range(4, 12)])
        expected = prompts.read([variation.at(text, 4 + row) for row, text in enumerate(texts)], [""] * 8)
        assert torch.equal(batch["words"], expected["words"])
        assert torch.equal(batch["words"][4:], again["words"])
        assert not torch.equal(batch["words"], plain_ones.at(range(4, 12))["words"])
        assert torch.equal(slices.read([0, 1])["words"], plain_ones.read([0, 1])["words"])
