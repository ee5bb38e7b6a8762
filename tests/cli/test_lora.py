"""Adapters by the real command: trained, stopped and gone on with, used, merged, and given to the wrong model."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medgen.artifacts.model_file import Model, open_model, save_model
from medgen.artifacts.sets import open_set
from medgen.cli.app import run
from medgen.training.learners.denoiser import DenoiserLearner
from medgen.training.loop.resume import State
from tests.cli.test_train import options
from tests.conftest import write_denoiser
from tests.unit.training.test_training_loop import interrupting

FIELDS = ("field0", "field1")


@pytest.fixture
def base(tmp_path: Path) -> Model:
    """A denoiser of images whose averaged weights differ from the last ones."""
    made = write_denoiser(tmp_path / "made.safetensors", None, fields=FIELDS)
    weights = made.weights()
    return save_model(
        tmp_path / "base.safetensors",
        kind=made.kind,
        config=made.config,
        weights={name: 2 * weight for name, weight in weights.items()},
        ema=weights,
        facts={**made.facts, "latent_scale": 1.0, "latent_shift": 0.0},
        provenance=made.provenance,
    )


@pytest.fixture
def train(make_set: Callable[..., Path], base: Model, tmp_path: Path) -> Callable[..., list[object]]:
    source = make_set(count=6, size=32)

    def command(name: str, *more: object, steps: int = 6) -> list[object]:
        files = ["-o", tmp_path / f"{name}.safetensors", "--init", base.path]
        loop = ["--steps", steps, "--batch-size", 2, "--learning-rate", 0.01]
        return ["train-diffusion", source, *files, "--lora", "attention,output", *loop, *options(), *more]

    return command


def images(path: Path) -> np.ndarray:
    with open_set(str(path)) as cases:
        return np.concatenate([case["image"] for case in cases])


def run_words(*words: object) -> int:
    return run([str(word) for word in words])


def test_stopped_the_same_command_ends_with_the_same_adapter(
    train: Callable[..., list[object]], base: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_words(*train("whole", "--lora-four-bit")) == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupting(DenoiserLearner, 3, signal.SIGTERM, patch)
        assert run_words(*train("parts", "--lora-four-bit")) == 143
    state = State.open(tmp_path / "parts.safetensors.resume")
    kinds = {name.partition(".")[0] for name in state.header.tensors}
    assert kinds == {"model", "average", "optimizer"}
    assert all(name.startswith("optimizer.") or ".lora." in name for name in state.header.tensors)
    assert run_words(*train("parts", "--lora-four-bit")) == 0
    assert "going on after step 4 of 6" in capfd.readouterr().err
    whole = tmp_path / "whole.safetensors"
    assert (tmp_path / "parts.safetensors").read_bytes() == whole.read_bytes()
    adapter = open_model(whole)
    assert (adapter.kind, adapter.facts["base_digest"]) == ("adapter", base.digest)
    assert all(".lora." in name and weight.any() for name, weight in adapter.weights().items())
    assert whole.stat().st_size < base.path.stat().st_size / 5


def test_merged_it_samples_as_with_the_adapter_and_at_strength_0_as_without(
    train: Callable[..., list[object]], base: Model, tmp_path: Path
) -> None:
    assert run_words(*train("a")) == 0
    adapter = tmp_path / "a.safetensors"

    def sample(name: str, *words: object) -> np.ndarray:
        out = tmp_path / f"{name}.h5"
        exact = ["--steps", 2, "-n", 2, "--vector", "field0=1", "--precision", "float32", "-o", out]
        assert run_words("generate", *words, *exact) == 0
        return images(out)

    plain = sample("plain", base.path)
    assert np.array_equal(sample("off", base.path, "--adapter", f"{adapter}:0"), plain)
    full = sample("full", base.path, "--adapter", adapter)
    assert not np.array_equal(full, plain)
    assert np.array_equal(sample("one", base.path, "--adapter", f"{adapter}:1.0"), full)
    half = sample("half", base.path, "--adapter", f"{adapter}:0.5")
    for name, strength, wanted in (("merged", "", full), ("merged-half", ":0.5", half)):
        merged = tmp_path / f"{name}.safetensors"
        assert run_words("merge-adapter", base.path, f"{adapter}{strength}", "-o", merged) == 0
        assert np.array_equal(sample(f"of-{name}", merged), wanted)
        inputs = open_model(merged).record.inputs.values()
        assert {base.digest, open_model(adapter).digest} <= {*inputs}
    assert not np.array_equal(half, full)
    # --no-ema concerns the adapter: it was trained on the averaged weights of its model, whichever of its own are taken
    last = sample("last", base.path, "--adapter", adapter, "--no-ema")
    assert not np.array_equal(last, full)
    assert np.array_equal(sample("off-last", base.path, "--adapter", f"{adapter}:0", "--no-ema"), plain)


def test_it_is_trained_on_the_weights_that_it_is_applied_to(
    train: Callable[..., list[object]], base: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny = ["--learning-rate", "1e-12"]
    assert run_words(*train("a", *tiny, steps=1)) == 0
    adapted = capfd.readouterr().err
    adapter, merged = tmp_path / "a.safetensors", tmp_path / "merged.safetensors"
    assert run_words("merge-adapter", base.path, adapter, "-o", merged) == 0
    for name, weight in open_model(merged).weights().items():
        torch.testing.assert_close(weight, base.weights()[name], atol=1e-9, rtol=0)
    assert "trains 7,304 parameters in 9 layers and keeps 175,089 as they are" in adapted


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--adapter", "a.safetensors"], 65, "belongs to the denoiser"),
        (["--adapter", "a.safetensors:much"], 2, "--adapter a.safetensors:much: expected FILE or FILE:STRENGTH"),
        (["--adapter", "a.safetensors:nan"], 2, "expected FILE or FILE:STRENGTH with a number"),
        (["--adapter", "none.safetensors"], 66, "none.safetensors: no such file"),
        (["--adapter", "made.safetensors"], 65, "is a model of kind 'denoiser'; expected 'adapter'"),
    ],
)
def test_what_is_no_adapter_of_the_model_is_refused(
    train: Callable[..., list[object]], words: list[str], status: int, message: str, tmp_path: Path,
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run_words(*train("a", steps=1)) == 0
    capfd.readouterr()
    assert run_words("generate", "made.safetensors", *words, "-o", "out.h5") == status
    assert message in capfd.readouterr().err
    assert not Path("out.h5").exists()


def test_given_twice_or_to_a_model_of_another_shape_it_is_refused(
    train: Callable[..., list[object]], base: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_words(*train("a", steps=1)) == 0
    adapter, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    assert run_words("merge-adapter", base.path, adapter, adapter, "-o", out) == 2
    assert "given twice" in capfd.readouterr().err
    narrow = {name: weight[:8] if name == "outputs.0.2.weight" else weight for name, weight in base.weights().items()}
    narrow["middle.first.attention.qkv.weight"] = narrow["middle.first.attention.qkv.weight"][:90]
    other = save_model(
        tmp_path / "other.safetensors",
        kind="denoiser", config=base.config, weights=narrow, facts=base.facts, provenance=base.provenance,
    )  # fmt: skip
    assert run_words("merge-adapter", other.path, adapter, "-o", out) == 65
    assert "changes a layer middle.first.attention.qkv of 96 x 32, and the model's is 90 x 32" in capfd.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (
            ["--lora", "cross-attention"],
            78,
            "the network has no cross-attention to adapt; it has attention,",
        ),
        (["--objective", "v"], 65, "objective (eps there, v here)"),
        (["--set", "network.blocks=3"], 65, "network.blocks (1 there, 3 here)"),
        (["--learner", "siamese"], 78, "'lora' is an option of learner denoiser"),
        (["--lora", "atention"], 78, "atention"),
    ],
)
def test_a_training_that_is_not_one_of_its_model_is_refused(
    train: Callable[..., list[object]], more: list[str], status: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_words(*train("a", *more)) == status
    assert message in capfd.readouterr().err


def test_without_a_model_to_begin_from_there_is_nothing_to_adapt(
    make_set: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_words("train-diffusion", make_set(), "--lora", "all", "-o", tmp_path / "a.safetensors") == 78
    assert "--lora tunes a trained model and keeps it unchanged; name it with --init" in capfd.readouterr().err
