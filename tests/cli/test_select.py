"""`medgen train-selector` and `medgen select` as their users meet them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from medgen.artifacts.schema import Case
from medgen.artifacts.sets import open_set
from medgen.artifacts.stream import StreamWriter
from medgen.cli.app import run
from medgen.feedback.selection import Judge
from medgen.imaging.labels.rows import read_rows
from medgen.models.selector import Describer, Selector
from tests.conftest import write_vae

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "feedback"))
from rated import rate, write_samples

Done = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a rated set samples.h5, ratings.csv, quality.npy, and the selector learned from 60 ratings."""
    folder = tmp_path_factory.mktemp("rated")
    quality = write_samples(folder / "samples.h5", 80)
    np.save(folder / "quality.npy", quality)
    rate(folder / "samples.h5", folder / "ratings.csv", quality, "anna", range(60))
    words = ["train-selector", folder / "samples.h5", "--ratings", folder / "ratings.csv"]
    assert run([str(word) for word in [*words, "-o", folder / "selector.safetensors"]]) == 0
    return folder


def quality_kept(folder: Path, path: Path) -> np.ndarray:
    """The hidden quality of the cases of a selected set."""
    with open_set(path, random_access=True) as stored:
        return np.load(folder / "quality.npy")[[int(row.id.removeprefix("sample-")) for row in stored.cases]]


def test_a_selector_keeps_the_better_half(here: Done, rated: Path, tmp_path: Path) -> None:
    best = tmp_path / "best.h5"
    words = ["select", rated / "samples.h5", "--selector", rated / "selector.safetensors"]
    status, told = here(*words, "--keep", "0.5", "-o", best)
    assert status == 0, told
    kept, every = quality_kept(rated, best), np.load(rated / "quality.npy")
    assert len(kept) == 40
    assert kept.mean() > every.mean() + 0.5
    with open_set(best, random_access=True) as stored:
        scores = stored.column("quality")
        assert spearmanr(scores, kept).statistic > 0.5
        assert scores.min() >= 1
        assert scores.max() <= 5
    status, told = here(*words, "--min-score", 5, "-o", tmp_path / "none.h5")
    assert (status, "none scores 5 or more (0 could not be judged); lower --min-score" in told) == (65, True)
    assert not (tmp_path / "none.h5").exists()
    status, told = here(*words, "--min-score", scores.min(), "-o", tmp_path / "same.h5")
    with open_set(best) as one, open_set(tmp_path / "same.h5") as other:
        assert [case.id for case in one] == [case.id for case in other]


def test_scores_are_shown_by_info_and_exported(
    here: Done, rated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = tmp_path / "best.h5"
    words = ["select", rated / "samples.h5", "--selector", rated / "selector.safetensors", "--keep", "0.2"]
    assert here(*words, "-o", best)[0] == 0
    with open_set(best, random_access=True) as stored:
        scores = stored.column("quality")
    assert run(["info", "--json", str(best)]) == 0
    told = json.loads(capsys.readouterr().out)["quality"]
    assert [told[name] for name in ("lowest", "mean", "highest")] == pytest.approx(
        [scores.min(), scores.mean(), scores.max()], abs=1e-3
    )
    assert here("export", best, "--to", "png", "-o", tmp_path / "best")[0] == 0
    rows = read_rows(tmp_path / "best" / "conditions.csv").rows
    assert [float(row["quality"]) for _, row in rows] == pytest.approx(scores.tolist(), abs=1e-3)


def test_a_pipe_gives_the_bytes_of_a_file(
    here: Done, rated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--selector", rated / "selector.safetensors", "--keep", "0.3", "-o"]
    assert here("select", rated / "samples.h5", *words, tmp_path / "file.h5")[0] == 0
    with open_set(rated / "samples.h5") as stored, (tmp_path / "stream").open("wb") as file:
        writer = StreamWriter(file, stored.header)
        for case in stored:
            writer.write(case)
        writer.finish(stored.tail)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "stream").read_bytes())))
    assert here("select", *words, tmp_path / "pipe.h5")[0] == 0
    assert (tmp_path / "pipe.h5").read_bytes() == (tmp_path / "file.h5").read_bytes()


def test_the_best_of_each_kind(here: Done, rated: Path, tmp_path: Path) -> None:
    words = ["select", rated / "samples.h5", "--selector", rated / "selector.safetensors", "--per"]
    assert here(*words, "x", "1", "-o", tmp_path / "each.h5")[0] == 0
    with open_set(tmp_path / "each.h5", random_access=True) as stored:
        assert len(stored) == len(np.unique(stored.column("vector")))
    status, told = here(*words, "modality", "1", "-o", tmp_path / "none.h5")
    assert status == 2
    assert "no case of the set has a modality" in told
    assert not (tmp_path / "none.h5").exists()


def test_a_set_of_another_size_is_refused(here: Done, rated: Path, tmp_path: Path) -> None:
    write_samples(tmp_path / "large.h5", 3, side=64)
    out = tmp_path / "out.h5"
    status, told = here("select", tmp_path / "large.h5", "--selector", rated / "selector.safetensors", "-o", out)
    assert status == 65
    assert "64 x 64" in told
    assert "32 x 32" in told
    assert not out.exists()


def test_a_selector_judges_by_the_latents_of_its_own_vae(here: Done, tmp_path: Path) -> None:
    for number, name in enumerate(("vae", "other")):
        write_vae(tmp_path / name, seed=number)
    samples, ratings, selector = tmp_path / "samples.h5", tmp_path / "ratings.csv", tmp_path / "selector.safetensors"
    rate(samples, ratings, write_samples(samples, 24), "anna", range(24))
    words = ["train-selector", samples, "--ratings", ratings, "--vae", tmp_path / "vae", "-o", selector]
    assert here(*words)[0] == 0
    words = ["select", samples, "--selector", selector, "--weak", "--keep", "0.5", "-o", tmp_path / "out.h5"]
    for more, status, told in (
        ((), 2, "judges by the latents of a VAE; give it with --vae"),
        (("--vae", tmp_path / "other"), 65, "judges by features of another VAE"),
        (("--vae", tmp_path / "vae"), 0, "kept 12 of 24 cases"),
    ):
        ended, said = here(*words, *more)
        assert (ended, told in said) == (status, True), said
    soft = tmp_path / "soft.h5"
    rate(soft, tmp_path / "soft.csv", write_samples(soft, 24, window=(-160.0, 240.0)), "anna", range(24))
    words = ["train-selector", soft, "--ratings", tmp_path / "soft.csv", "--vae", tmp_path / "vae", "-o", selector]
    status, told = here(*words, "--force")
    assert (status, "the model was trained on [-1000, 400] HU" in told) == (65, True)


def test_permuted_ratings_say_nothing(here: Done, rated: Path, tmp_path: Path) -> None:
    quality = np.random.default_rng(1).permutation(np.load(rated / "quality.npy"))
    rate(rated / "samples.h5", tmp_path / "ratings.csv", quality, "anna", range(60))
    model, report = tmp_path / "selector.safetensors", tmp_path / "report.json"
    words = ["train-selector", rated / "samples.h5", "--ratings", tmp_path / "ratings.csv", "-o", model]
    status, told = here(*words, "--report", report)
    assert status == 0, told
    assert "scores mean nothing" in told
    assert not json.loads(report.read_text())["overall"]["says"]
    words = ["select", rated / "samples.h5", "--selector", model, "--keep", "0.5", "-o", tmp_path / "out.h5"]
    status, told = here(*words)
    assert status == 65
    assert "scores mean nothing" in told
    assert here(*words, "--weak")[0] == 0


def test_cases_are_judged_together_and_a_broken_one_alone(rated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    selector = Selector.load(rated / "selector.safetensors", torch.device("cpu"))
    refused: list[str] = []
    with open_set(rated / "samples.h5", random_access=True) as stored:
        cases, header = [stored.case(number) for number in range(37)], stored.header

        def scores(some: list[Case]) -> list[float]:
            judge = Judge(selector, header, "set", "", lambda case, error: refused.append(f"{case.id}: {error}"))
            return [score for _, score in judge.judged(some)]

        alone = [score for case in cases for score in scores([case])]
        calls = []
        describe = Describer.__call__
        monkeypatch.setattr(Describer, "__call__", lambda *given: calls.append(len(given[1])) or describe(*given))
        assert scores(cases) == alone
        assert calls == [16, 16, 5]
        image = cases[20]["image"].astype(np.float32)
        image[...] = np.nan
        cases[20] = replace(cases[20], arrays={**cases[20].arrays, "image": image})
        assert scores(cases) == [*alone[:20], *alone[21:]]
        assert len(refused) == 1
        assert refused[0].startswith(f"{cases[20].id}: case {cases[20].id}: the image")
        several = replace(cases[0], arrays={k: np.concatenate([v[:]] * 20) for k, v in cases[0].arrays.items()})
        assert scores([cases[1], several, cases[2]]) == pytest.approx([alone[1], alone[0], alone[2]], abs=1e-3)


def test_ratings_of_another_set_are_refused(here: Done, rated: Path, tmp_path: Path) -> None:
    write_samples(tmp_path / "other.h5", 20, seed=5)
    model = tmp_path / "selector.safetensors"
    status, told = here("train-selector", tmp_path / "other.h5", "--ratings", rated / "ratings.csv", "-o", model)
    assert status == 65
    assert "no rating is about this set" in told
    assert not model.exists()


def test_odd_ratings_are_told(here: Done, rated: Path, tmp_path: Path) -> None:
    rows = (rated / "ratings.csv").read_text().splitlines()[:13]
    elsewhere = rows[1].replace(rows[1][:16], "0" * 16)
    *told, value, when = rows[1].split(",")
    again = ",".join([*told, str(6 - int(value)), when])
    (tmp_path / "ratings.csv").write_text("\n".join([*rows, elsewhere, again, rows[2][:30]]))
    model = tmp_path / "selector.safetensors"
    words = ["train-selector", rated / "samples.h5", "--ratings", tmp_path / "ratings.csv", "-o", model]
    status, told = here(*words)
    assert status == 0, told
    assert "1 ratings are about other sets" in told
    assert "1 ratings were given again" in told
    assert "cut short" in told
