"""Training under texts and modalities, and sampling under prompts, by the real commands."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medgen.artifacts.model_file import open_model
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.cli.app import run
from medgen.models.text.pretrained import load_pretrained

SIDE = 8
PRESET = """
[train-diffusion]
objective = "v"
condition_dropout = 0.1
search_guidance = false
[train-diffusion.network]
widths = [16, 32]
blocks = 1
attention = ["none", "full"]
head_width = 16
time_width = 64
groups = 8
context_width = 32
[train-diffusion.network.text]
vocabulary = 200
length = 10
layers = 1
head_width = 16
[train-diffusion.loop]
precision = "float32"
batch_size = 16
learning_rate = 3e-3
warmup = 20
ema = 0.98
validate_every = 0
[generate]
precision = "float32"
steps = 6
guidance = 1.0
"""


def paired(path: Path, modalities: tuple[str, ...] = ("CT", "Fundus"), count: int = 128) -> Path:
    """A bright square on the left or right, as the text says; the ground is dark or bright, as the modality says."""
    rng = np.random.default_rng(0)
    header = SetHeader(
        "image", derive("preprocess", {"path": path.name}), Intensity(unit="grey value", window=(0.0, 255.0))
    )
    with create_set(path, header) as writer:
        for index in range(count):
            modality, side = modalities[index % len(modalities)], ("left", "right")[index // 2 % 2]
            image = np.full((1, 1, SIDE, SIDE), 40 + 90 * (index % len(modalities)), np.uint8)
            image[..., 2:6, slice(0, 3) if side == "left" else slice(5, 8)] = 250
            image += rng.integers(0, 5, image.shape, np.uint8)
            text = f"one square on the {side}"
            writer.write(Case(f"c{index}", {"image": image}, text=(text,), modality=(modality,)))
    return path


def train(folder: Path, data: Path, output: Path, steps: int, *more: str) -> None:
    (folder / "p.toml").write_text(PRESET)
    command = ["train-diffusion", str(data), "--config", str(folder / "p.toml"), "--steps", str(steps)]
    assert run([*command, "-q", "-o", str(output), "--force", *more]) == 0


def generate(model: Path, output: Path, *more: str) -> int:
    config = ["--config", str(model.parent / "p.toml")]
    return run(["generate", str(model), *config, "-o", str(output), "--force", "-q", *more])


def images(path: Path) -> np.ndarray:
    with open_set(path, random_access=True) as stored:
        return stored.read("image", range(stored.slices)).astype(int)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("text")
    paired(place / "set.h5")
    train(place, place / "set.h5", place / "model.safetensors", 260)
    return place


def test_prompt_and_modality_are_learned(folder: Path) -> None:
    model, output = folder / "model.safetensors", folder / "learned.h5"
    shown = {}
    for modality in ("ct", " FUNDUS "):
        for side in ("left", "right"):
            asked = ("--prompt", f"one square on the {side}", "--modality", modality)
            assert generate(model, output, *asked, "-n", "8") == 0
            made = images(output)[:, 0]
            ground, left, right = made[:, :, 3:5], made[:, 2:6, :3], made[:, 2:6, 5:]
            contrast = (left.mean((1, 2)) - right.mean((1, 2))) * (1 if side == "left" else -1)
            assert (contrast > 40).mean() >= 0.75
            shown[modality, side] = ground.mean()
    bright, dark = ([ground for (name, _), ground in shown.items() if name == asked] for asked in (" FUNDUS ", "ct"))
    assert min(bright) > 40 + max(dark)
    with open_set(output, random_access=True) as stored:
        assert stored.texts("modality") == ["Fundus"] * 8  # as the model spells it
        assert stored.texts("text") == ["one square on the right"] * 8
        assert stored.provenance.steps[-1].config["prompts"] == "one square on the right"


def test_lines_tables_sets_and_shards_ask_for_the_same_samples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, whole = folder / "model.safetensors", folder / "whole.h5"
    lines = ["one square on the left", "one square on the right", "a square", "one"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n\n".join(lines).encode())))
    assert generate(model, whole, "--prompts", "-", "--modality", "ct") == 0
    table = folder / "asked.csv"
    table.write_text("Modal,prompt\n" + "".join(f"CT,{line}\n" for line in lines))
    other = folder / "other.h5"
    assert generate(model, other, "--conditions", str(table), "--batch-size", "3") == 0
    np.testing.assert_array_equal(images(other), images(whole))
    assert generate(model, other, "--like", str(whole)) == 0
    np.testing.assert_array_equal(images(other), images(whole))
    assert generate(model, other, "--conditions", str(table), "--shard", "1/2") == 0
    np.testing.assert_array_equal(images(other), images(whole)[1::2])
    assert generate(model, other, "--conditions", str(table), "--guidance", "2") == 0
    assert (images(other) != images(whole)).any()
    once = images(other)
    assert generate(model, other, "--conditions", str(table), "--guidance", "2", "--unconditional") == 2
    (folder / "lines.txt").write_text("\n".join(lines))
    lead = ("--prompts", str(folder / "lines.txt"), "--modality", "ct", "--guidance", "2")
    assert generate(model, other, *lead, "--negative-prompt", "one square on the right") == 0
    assert (images(other)[0] != once[0]).any()


@pytest.mark.parametrize(
    ("asked", "status", "reason"),
    [
        ([], 2, "generates images from texts; give --prompt TEXT"),
        (["--prompt", " "], 2, "a prompt is empty"),
        (["--prompt", "square", "--modality", "funds"], 65, "did you mean 'Fundus'? (it knows: CT, Fundus)"),
        (["--prompt", "square", "--prompts", "x.txt"], 2, "--prompt and --prompts exclude each other"),
        (["--prompts", "none.txt"], 66, "none.txt"),
        (["--prompts", "table.csv"], 2, "give it with --conditions"),
        (["--modality", "CT"], 2, "generates images from texts"),
        (["--unconditional", "--negative-prompt", "x"], 2, "--negative-prompt and --unconditional"),
        (["--prompt", "square", "--text-encoder", "."], 2, "leave out --text-encoder"),
    ],
)
def test_what_cannot_be_asked_is_told(
    folder: Path, capfd: pytest.CaptureFixture[str], asked: list[str], status: int, reason: str
) -> None:
    assert generate(folder / "model.safetensors", folder / "no.h5", *asked) == status
    assert reason in capfd.readouterr().err
    assert not (folder / "no.h5").exists()


def test_words_that_are_not_read_are_shown(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    long = "one square on the left and one on the right"
    assert run([
        "generate", str(folder / "model.safetensors"), "--config", str(folder / "p.toml"), "--steps", "1", "--force",
        "--prompt", f"œ efusion {long}", "-o", str(folder / "long.h5"),
    ]) == 0  # fmt: skip
    told = capfd.readouterr().err
    assert "is too long; not read: '" in told
    assert "words that the model cannot read: œ" in told
    assert "has words that hardly any training caption had: efusion" in told


def test_a_new_modality_joins_and_old_samples_stay_as_they_are(folder: Path) -> None:
    more = paired(folder / "more.h5", ("Fundus", "OCT", "CT"), 24)
    joined = folder / "joined.safetensors"
    still = ["--learning-rate", "1e-30", "--set", "loop.ema=0", "--set", "loop.weight_decay=0"]
    train(folder, more, joined, 1, "--init", str(folder / "model.safetensors"), *still)
    old, new = (open_model(folder / f"{name}.safetensors") for name in ("model", "joined"))
    assert new.facts["modalities"] == ["CT", "Fundus", "OCT"]
    assert new.facts["vocabulary"] == old.facts["vocabulary"]
    assert new.facts["words"] == old.facts["words"] == ["left", "on", "one", "right", "square", "the"]
    asked = ("--prompt", "one square on the left", "--modality", "Fundus", "-n", "2")
    for model in ("model", "joined"):
        assert generate(folder / f"{model}.safetensors", folder / f"{model}.h5", *asked) == 0
    np.testing.assert_array_equal(images(folder / "joined.h5"), images(folder / "model.h5"))
    assert generate(joined, folder / "oct.h5", "--prompt", "one square", "--modality", "oct") == 0


def check_low_rank(place: Path, weights: dict[str, torch.Tensor], rank: int) -> None:
    """Layers differ from those of the encoder in `place` by matrices of that rank, and all else is as it was."""
    before = {f"text.{name}": tensor for name, tensor in load_pretrained(str(place), 12).weights.items()}
    assert before.keys() == {name for name in weights if name.startswith("text.")}
    changed = {name: weights[name] - tensor for name, tensor in before.items() if (weights[name] != tensor).any()}
    assert {name.rpartition(".")[2] for name in changed} == {"weight"}
    assert len(changed) == 6  # query, key, value and output of attention, and the two layers behind it
    assert all(torch.linalg.svdvals(change)[rank:].max() < 1e-6 for change in changed.values())


@pytest.mark.parametrize("tuning", ["frozen", "lora", "all"])
def test_an_encoder_from_a_folder_is_kept_out_of_the_model_or_trained_in_it(
    folder: Path, capfd: pytest.CaptureFixture[str], tuning: str
) -> None:
    library = pytest.importorskip("transformers")
    place = folder / "bert"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "a", "square", "on", "the", "left", "right"]
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    settings = library.BertConfig(vocab_size=len(vocabulary), max_position_embeddings=12, **shape)
    library.BertForMaskedLM(settings).save_pretrained(place)  # with a head and no pooler, as most checkpoints
    (place / "vocab.txt").write_text("\n".join(vocabulary))
    model = folder / f"{tuning}.safetensors"
    train(folder, folder / "set.h5", model, 6, "--text-encoder", str(place), "--text-tuning", tuning)
    if tuning == "lora":
        check_low_rank(place, open_model(model).weights(ema=False), rank=8)
    facts = open_model(model).facts["text_encoder"]
    assert facts["name"] == "bert"
    asked = ("--prompt", "one square on the left", "--modality", "ct", "--steps", "2")
    inside = any(name.startswith("text.") for name in open_model(model).weights())
    assert inside == (tuning != "frozen") == bool(facts["tokenizer"])
    assert generate(model, folder / "b.h5", *asked) == (0 if inside else 2)
    assert generate(model, folder / "b.h5", *asked, "--text-encoder", str(place)) == (2 if inside else 0)
    capfd.readouterr()
    if not inside:
        one = images(folder / "b.h5")
        assert generate(model, folder / "b.h5", *asked[:1], "one square on the right", *asked[2:], "--text-encoder",
                        str(place)) == 0  # fmt: skip
        assert one.shape == images(folder / "b.h5").shape
        library.BertForMaskedLM(settings).save_pretrained(place)
        assert generate(model, folder / "b.h5", *asked, "--text-encoder", str(place)) == 65
        assert "is not the encoder bert" in capfd.readouterr().err


def test_without_the_library_its_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    library = pytest.importorskip("transformers")
    monkeypatch.setitem(sys.modules, "transformers", None)
    command = ["train-diffusion", str(folder / "set.h5"), "--config", str(folder / "p.toml"), "--text-encoder", "x"]
    assert run([*command, "-o", str(folder / "no.safetensors")]) == 69
    assert "pip install 'medgen[text]'" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "transformers", library)
    monkeypatch.setattr(library, "is_torch_available", lambda: False)  # as it says of an old torch
    assert run([*command, "-o", str(folder / "no.safetensors")]) == 69
    assert f"needs a newer torch than {torch.__version__}; pip install -U torch" in capfd.readouterr().err
    for given, told in ((("--lora", "text"), "an adapter alone; give one"), ((), "give that")):
        encoder = command[4:] if given else []
        assert (
            run([*command[:4], *encoder, "--text-tuning", "lora", *given, "-o", str(folder / "no.safetensors")]) == 78
        )
        assert told in capfd.readouterr().err
