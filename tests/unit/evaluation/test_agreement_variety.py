"""How alike images of one text are, and how like their text they are to a model of both."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import GENERATED, Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.errors import DataError, InputMissingError
from medgen.evaluation.agreement.clip import ImageTextModel, clip_scores
from medgen.evaluation.agreement.declaration import AgreementOptions
from medgen.evaluation.agreement.metric import measure
from medgen.evaluation.agreement.variety import variety
from medgen.evaluation.features.features import Extractor, FeatureBank
from medgen.evaluation.inputs import Inputs
from medgen.reporting import Silent

TEXTS = ["a cat", "a dog"] * 6
CPU = torch.device("cpu")


def noise(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_images_of_one_text_that_are_one_image_are_no_variety() -> None:
    two = noise(2, 48)
    found = variety(TEXTS, lambda rows: two[[row % 2 for row in rows]], 0)
    assert found is not None
    assert found["within"]["value"] == pytest.approx(1.0)
    assert found["between"]["value"] < 0.3
    assert (found["texts"], found["pairs"], found["scales"]) == (2, 16, 3)


def test_images_that_ignore_their_text_are_as_alike_within_as_between() -> None:
    images = noise(12, 24)
    found = variety(TEXTS, lambda rows: images[list(rows)], 0)
    assert found is not None
    assert found["within"]["value"] == pytest.approx(found["between"]["value"], abs=0.05)


@pytest.mark.parametrize(("side", "scales"), [(11, 1), (160, 4), (161, 5), (300, 5)])
def test_large_images_are_compared_at_all_scales(side: int, scales: int) -> None:
    images = noise(4, side)
    found = variety(["one"] * 4, lambda rows: images[list(rows)], 0)
    assert found is not None
    assert found["scales"] == scales
    assert found["between"] is None


def test_without_two_images_of_a_text_or_at_ten_pixels_there_is_no_variety() -> None:
    images = noise(4, 10)
    assert variety(["one"] * 4, lambda rows: images[list(rows)], 0) is None
    assert variety(["a", "b", "", ""], lambda rows: noise(4, 32)[list(rows)], 0) is None


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights as transformers saves one."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("clip")
    words = {"[PAD]": 0, "[UNK]": 1, "[END]": 2, "a": 3, "cat": 4, "dog": 5}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.post_processor = tokenizers.processors.TemplateProcessing("$A [END]", special_tokens=[("[END]", 2)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]", eos_token="[END]", model_max_length=8
    ).save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={**shape, "vocab_size": 6, "max_position_embeddings": 8, "eos_token_id": 2, "bos_token_id": 1},
        vision_config={**shape, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Twelve grey images of two texts."""
    header = SetHeader("image", derive("make", {}), Intensity(1.0, 0.0, "grey value", (0.0, 255.0)))
    values = np.random.default_rng(0).integers(0, 256, (12, 1, 1, 40, 32), dtype=np.uint8)
    with create_set(tmp_path / "s.h5", header) as writer:
        for number, text in enumerate(TEXTS):
            writer.write(Case(f"{number:02d}", {"image": values[number]}, text=(text,), synthetic=GENERATED))
    return tmp_path / "s.h5"


def test_the_score_is_that_of_transformers_beside_that_of_other_texts(clip: Path, written: Path) -> None:
    import transformers

    model = transformers.CLIPModel.from_pretrained(clip)
    processor = transformers.CLIPImageProcessor.from_pretrained(clip)
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
    with open_set(written, random_access=True) as stored:
        pixels = stored.read("image", range(12)).repeat(3, axis=1).transpose(0, 2, 3, 1)
        found = clip_scores(ImageTextModel(clip, CPU), stored, TEXTS, np.arange(12), 0)
        inputs = Inputs(stored, FeatureBank(Extractor("none", "", lambda x: x)), Silent().progress)
        section = measure(inputs, AgreementOptions(clip=str(clip)))
    with torch.inference_mode():
        words = tokenizer(TEXTS, padding=True, return_tensors="pt")
        logits = model(**processor(list(pixels), return_tensors="pt"), **words).logits_per_image
    cosines = 100 * logits.double() / float(model.logit_scale.detach().exp())
    assert found is not None
    assert found["value"] == pytest.approx(float(cosines.diagonal().mean()), abs=1e-3)
    others = cosines[~torch.eye(12, dtype=torch.bool)].mean()
    assert found["shuffled"] == pytest.approx(float(others), abs=1e-3)
    assert found["low"] < found["value"] < found["high"]
    assert section.result["clip"]["samples"] == found
    assert section.result["variety"]["samples"]["texts"] == 2
    assert "give --reference" in section.warnings[0]
    assert [table.rows[0][0] for table in section.tables] == ["samples", "samples"]


def test_the_score_of_a_text_depends_neither_on_its_batch_nor_on_the_type_of_stored_weights(
    clip: Path, tmp_path: Path
) -> None:
    import transformers

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = transformers.SiglipModel(
        transformers.SiglipConfig(
            text_config={**shape, "vocab_size": 6, "max_position_embeddings": 8, "projection_size": 16},
            vision_config={**shape, "image_size": 32, "patch_size": 16},
        )
    ).half()
    shutil.copytree(clip, tmp_path / "siglip", ignore=shutil.ignore_patterns("model.safetensors", "config.json"))
    model.save_pretrained(tmp_path / "siglip")
    ours = ImageTextModel(tmp_path / "siglip", CPU)
    alone, beside = ours.of_texts(["a cat"]), ours.of_texts(["a cat", "a cat a dog"])[:1]
    full = torch.tensor([[3, 4, 2, 0, 0, 0, 0, 0]])  # as its authors pad
    expected = model.float().get_text_features(input_ids=full).pooler_output.detach()
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone, torch.nn.functional.normalize(expected.double(), dim=-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("told", [8, 10**30])
def test_texts_that_are_not_read_to_their_end_are_counted(clip: Path, written: Path, tmp_path: Path, told: int) -> None:
    """Also where the tokenizer does not say how much the model reads."""
    folder = shutil.copytree(clip, tmp_path / "clip")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": told}))
    model = ImageTextModel(folder, CPU)
    assert model.length == 8
    assert model.cut(["a cat", "a dog " * 3, "a dog " * 4]) == 1
    torch.testing.assert_close(model.of_texts(["a dog " * 4]), model.of_texts(["a dog a dog a dog a"]))
    with open_set(written) as stored, create_set(tmp_path / "long.h5", stored.header) as writer:
        for number, case in enumerate(stored):
            writer.write(dataclasses.replace(case, text=(TEXTS[number] * (1 + 9 * (number < 3)),)))
    with open_set(tmp_path / "long.h5", random_access=True) as stored:
        inputs = Inputs(stored, FeatureBank(Extractor("none", "", lambda x: x)), Silent().progress)
        warnings = measure(inputs, AgreementOptions(clip=str(folder))).warnings
    assert "the ends of 3 of 12 texts (samples) do not count" in warnings[-1]


def test_what_is_no_model_of_images_and_texts_is_said(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="no such folder"):
        ImageTextModel(tmp_path / "none", CPU)
    with pytest.raises(DataError, match="cannot be read as a model of images and texts"):
        ImageTextModel(tmp_path, CPU)


def test_without_transformers_it_ends_with_69(clip: Path, written: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['transformers'] = None; from medgen.cli.app import run;"
        f"sys.exit(run(['evaluate', {str(written)!r}, '--clip', {str(clip)!r}, '-o', {str(tmp_path / 'o.json')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 69, done.stderr
    assert "pip install 'medgen[text]'" in done.stderr
