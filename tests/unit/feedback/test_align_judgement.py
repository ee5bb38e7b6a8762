"""Whose judgement an alignment follows: ratings of images, or a selector that fits the model."""

from __future__ import annotations

import contextlib
import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from rated import rate, write_samples
from test_align import SIDE, Reporter, options_of, write_model

from medgen.artifacts.merging import join
from medgen.artifacts.model_file import open_model
from medgen.artifacts.provenance import derive
from medgen.artifacts.sets import create_set, open_set
from medgen.errors import DataError, UsageError
from medgen.feedback.alignment.align_options import AlignOptions, DDPOOptions, DPOOptions, RWROptions
from medgen.feedback.alignment.judgement import Judgement, opinions
from medgen.feedback.alignment.train import Task, align
from medgen.feedback.selector.options import SelectorOptions
from medgen.feedback.selector.training import train_selector
from medgen.imaging.labels.answers import Answers
from medgen.imaging.labels.ratings import read_ratings
from medgen.models.trained import FrozenVAE
from medgen.training.loop.run import Run
from tests.conftest import write_vae


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.safetensors; samples.h5 with ratings.csv, each asked for something else; alike.h5; real.h5."""
    made = tmp_path_factory.mktemp("judgement")
    write_model(made / "model.safetensors")
    quality = write_samples(made / "samples.h5", 40, side=SIDE)
    rate(made / "samples.h5", made / "ratings.csv", quality, "anna", range(40))
    with open_set(made / "samples.h5") as stored, create_set(made / "real.h5", stored.header) as writer:
        for case in itertools.islice(stored, 12):
            writer.write(replace(case, id=f"real-{case.id}", split="test", synthetic=""))
    with open_set(made / "samples.h5") as stored, create_set(made / "alike.h5", stored.header) as writer:
        for case in itertools.islice(stored, 12):
            writer.write(replace(case, arrays={**case.arrays, "vector": np.full((1, 1), 0.5, np.float32)}))
    return made


def task(folder: Path, judgement: Judgement) -> Task:
    return Task(folder / "model.safetensors", None, judgement)


def stepped(options: AlignOptions) -> AlignOptions:
    return msgspec.structs.replace(options, loop=msgspec.structs.replace(options.loop, steps=2))


def run_in(folder: Path, output: Path, reporter: Reporter | None = None) -> Run:
    return Run("align", str(folder / "real.h5"), output, torch.device("cpu"), reporter or Reporter())


def test_ratings_alone_teach_a_model(folder: Path, tmp_path: Path) -> None:
    """All images were asked to show the same, so that they can be compared."""
    reporter = Reporter()
    options = stepped(options_of(DPOOptions))
    judgement = Judgement(None, folder / "ratings.csv", [str(folder / "alike.h5")])
    with pytest.raises(DataError, match="no rating is about this set"):
        align(run_in(folder, tmp_path / "out.safetensors", reporter), task(folder, judgement), options)
    rate(folder / "alike.h5", tmp_path / "ratings.csv", np.linspace(-1, 1, 12), "anna", range(12))
    judgement = Judgement(None, tmp_path / "ratings.csv", [str(folder / "alike.h5")])
    align(run_in(folder, tmp_path / "out.safetensors", reporter), task(folder, judgement), options)
    assert any("no real training images" in warning for warning in reporter.warnings)
    written = open_model(tmp_path / "out.safetensors", kind="denoiser")
    assert written.facts["updates"] == 2
    before = open_model(folder / "model.safetensors").weights()
    assert any(not torch.equal(before[name], tensor) for name, tensor in written.weights().items())


def test_real_images_that_do_not_say_what_they_show_are_compared_with_what_was_asked(
    folder: Path, tmp_path: Path
) -> None:
    with open_set(folder / "real.h5") as stored:
        header = msgspec.structs.replace(stored.header, vector_fields=())
        with create_set(tmp_path / "silent.h5", header) as writer:
            for case in stored:
                writer.write(replace(case, arrays={"image": case["image"]}))
    (tmp_path / "conditions.csv").write_text("x\n0.25\n0.75\n")
    rate(folder / "alike.h5", tmp_path / "ratings.csv", np.linspace(-1, 1, 12), "anna", range(12))
    judgement = Judgement(None, tmp_path / "ratings.csv", [str(folder / "alike.h5")])
    figures = []
    for name in (folder / "real.h5", tmp_path / "silent.h5"):
        reporter = Reporter()
        run = Run("align", str(name), tmp_path / f"{name.stem}.safetensors", torch.device("cpu"), reporter)
        given = replace(task(folder, judgement), conditions=tmp_path / "conditions.csv")
        align(run, given, stepped(options_of(DPOOptions)))
        silent = any("does not say what its images show" in warning for warning in reporter.warnings)
        figures.append((silent, open_model(run.output, kind="denoiser").facts))
    (told, ours), (silent, theirs) = figures
    assert (told, silent) == (False, True)
    assert "frechet_asked_before" not in theirs
    assert theirs["frechet_before"] == ours["frechet_asked_before"] != ours["frechet_before"]


def test_images_that_were_each_asked_for_something_else_teach_nothing(folder: Path, tmp_path: Path) -> None:
    judgement = Judgement(None, folder / "ratings.csv", [str(folder / "samples.h5")])
    with pytest.raises(DataError, match="no two images of one condition"):
        align(run_in(folder, tmp_path / "out.safetensors"), task(folder, judgement), stepped(options_of(RWROptions)))
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"side": 32}, r"of shape \(1, 32, 32\), and the model makes"), ({"window": (-500.0, 200.0)}, "another window")],
)
def test_rated_images_unlike_the_model_s_are_refused(
    folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    quality = write_samples(tmp_path / "unlike.h5", 12, **{"side": SIDE, **changes})
    rate(tmp_path / "unlike.h5", tmp_path / "ratings.csv", quality, "anna", range(12))
    judgement = Judgement(None, tmp_path / "ratings.csv", [str(tmp_path / "unlike.h5")])
    with pytest.raises(DataError, match=message):
        align(run_in(folder, tmp_path / "out.safetensors"), task(folder, judgement), stepped(options_of(RWROptions)))


def test_ddpo_needs_images_of_its_own(folder: Path, tmp_path: Path) -> None:
    judgement = Judgement(None, folder / "ratings.csv", [str(folder / "samples.h5")])
    with pytest.raises(UsageError, match="--selector"):
        align(run_in(folder, tmp_path / "out.safetensors"), task(folder, judgement), options_of(DDPOOptions))


def test_a_selector_of_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    quality = write_samples(tmp_path / "large.h5", 40, side=32)
    rate(tmp_path / "large.h5", tmp_path / "ratings.csv", quality, "anna", range(40))
    with open_set(tmp_path / "large.h5", random_access=True) as stored:
        train_selector(
            [stored], ["large.h5"], read_ratings(tmp_path / "ratings.csv"), tmp_path / "ratings.csv",
            tmp_path / "selector.safetensors", SelectorOptions(), Reporter(), device=torch.device("cpu"),
        )  # fmt: skip
    judgement = Judgement(tmp_path / "selector.safetensors", None)
    options = msgspec.structs.replace(stepped(options_of(RWROptions)), weak=True)
    with pytest.raises(DataError, match="32 x 32"):
        align(run_in(folder, tmp_path / "out.safetensors"), task(folder, judgement), options)


def test_a_selector_may_judge_images_of_a_model_without_latents_by_those_of_a_vae(folder: Path, tmp_path: Path) -> None:
    write_vae(tmp_path / "vae.safetensors")
    with open_set(folder / "samples.h5", random_access=True) as stored:
        train_selector(
            [stored], ["samples.h5"], read_ratings(folder / "ratings.csv"), folder / "ratings.csv",
            tmp_path / "selector.safetensors", SelectorOptions(), Reporter(), device=torch.device("cpu"),
            vae=FrozenVAE.load(tmp_path / "vae.safetensors", torch.device("cpu"), "float32"),
        )  # fmt: skip
    options = msgspec.structs.replace(stepped(options_of(RWROptions)), weak=True)
    judged = task(folder, Judgement(tmp_path / "selector.safetensors", None))
    with pytest.raises(UsageError, match="give it with --vae"):
        align(run_in(folder, tmp_path / "out.safetensors"), judged, options)
    align(run_in(folder, tmp_path / "out.safetensors"), replace(judged, vae=tmp_path / "vae.safetensors"), options)
    aligned = open_model(tmp_path / "out.safetensors")
    assert aligned.facts["space"] == "image"
    assert {step.command for step in aligned.provenance.steps} >= {"train-selector", "align"}


def test_opinions_count_from_each_raters_mean() -> None:
    strict_and_mild = Answers(
        ("anna", "ben"), np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]), np.array([1.0, 2.0, 4.0, 5.0]),
        np.array([0]), np.array([2]), np.array([0]), np.array([1.0]),
    )  # fmt: skip
    found = opinions({"realism": strict_and_mild}, 4)
    assert found[:3].tolist() == [-0.5, 0.0, 0.5]
    assert np.isnan(found[3])


def test_selected_images_join_real_ones_without_their_scores(folder: Path) -> None:
    with open_set(folder / "alike.h5") as stored:
        provenance = derive("select", {}, inputs=[stored])
        header = msgspec.structs.replace(stored.header, provenance=provenance)
        with create_set(folder / "selected.h5", header) as writer:
            for case in stored:
                writer.write(replace(case, arrays={**case.arrays, "quality": np.full(1, 3, np.float32)}))
    paths = [folder / "real.h5", folder / "selected.h5"]
    for names, scored in ((paths, False), (paths[1:], True)):
        with contextlib.ExitStack() as stack:
            readers = [stack.enter_context(open_set(path)) for path in names]
            _, _, cases = join(readers, [str(path) for path in names], mixed=True, drop=True)
            assert {"quality" in case.arrays for case in cases} == {scored}
