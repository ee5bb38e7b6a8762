"""From a folder of Stable Diffusion and back: what medgen makes of it is what diffusers makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from medgen.artifacts.model_file import open_model
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.cli.app import run
from medgen.diffusion.noise import NoiseStream
from medgen.models.diffusers.reading import import_denoiser, read_tokenizer
from medgen.models.facts import DenoiserFacts
from medgen.models.text.prompts import prompts_of
from medgen.models.trained import Denoiser
from medgen.nets.condition import Condition

diffusers = pytest.importorskip("diffusers")

BYTES = Intensity(1.0, 0.0, "grey value", (0.0, 255.0))
SIDE = 16


def randomized(network: Any, seed: int) -> Any:
    """With every weight random, so that no zero or one hides a wrong name."""
    torch.manual_seed(seed)
    for name, parameter in network.named_parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 16
        torch.nn.init.normal_(parameter, std=fan**-0.5, mean=1.0 if "norm" in name and "weight" in name else 0.0)
    return network.eval().requires_grad_(False)


def vae() -> Any:
    settings = {
        "block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2, "norm_num_groups": 4,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "layers_per_block": 1, "latent_channels": 4,
    }  # fmt: skip
    return randomized(diffusers.AutoencoderKL(**settings, scaling_factor=0.18215), 1)


LENGTH, WIDTH = 12, 16
FLAVOURS: dict[str, dict[str, Any]] = {
    "1.5": {"attention_head_dim": 4},
    "2.1": {"attention_head_dim": (2, 3), "use_linear_projection": True},
}


def unet(flavour: str) -> Any:
    settings = {
        "sample_size": SIDE // 2, "block_out_channels": (16, 24), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "cross_attention_dim": WIDTH,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    return randomized(diffusers.UNet2DConditionModel(**settings, **FLAVOURS[flavour]), 2)


def text_encoder(flavour: str, vocabulary: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    activation = "quick_gelu" if flavour == "1.5" else "gelu"
    config = CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=LENGTH, hidden_act=activation,
        bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1,
    )  # fmt: skip
    return randomized(CLIPTextModel(config), 3)


def tokenizer(flavour: str) -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    merges = [("c", "h"), ("ch", "e"), ("e", "s"), ("s", "t</w>"), ("che", "st</w>"), ("r", "a"), ("a", "y</w>")]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    vocabulary = {piece: number for number, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    padding = "<|endoftext|>" if flavour == "1.5" else "!"
    return CLIPTokenizer(vocabulary, merges, pad_token=padding, model_max_length=LENGTH)


def scheduler(flavour: str) -> Any:
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
        timestep_spacing="trailing", prediction_type="epsilon" if flavour == "1.5" else "v_prediction",
    )  # fmt: skip


def pipeline(flavour: str) -> Any:
    words = tokenizer(flavour)
    parts = {"tokenizer": words, "text_encoder": text_encoder(flavour, len(words)), "unet": unet(flavour)}
    made = diffusers.StableDiffusionPipeline(
        vae=vae(), scheduler=scheduler(flavour), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False, **parts,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def write_images(path: Path, channels: int, count: int = 4, modality: str = "") -> Path:
    draw = np.random.default_rng(0)
    header = SetHeader("image", derive("preprocess", {}, sources=f"source-{channels}"), BYTES)
    with create_set(path, header) as writer:
        for number in range(count):
            image = draw.integers(0, 256, (1, channels, SIDE, SIDE)).astype(np.uint8)
            text = (f"chest x-ray number {number}, isn't it",)
            split = "val" if number == 3 else "train"
            writer.write(Case(f"case-{number}", {"image": image}, split, text=text, modality=(modality,)))
    return path


@pytest.mark.parametrize("channels", [3, 1])
def test_latents_of_colour_and_of_grey_images_are_those_of_diffusers(channels: int, tmp_path: Path) -> None:
    theirs = vae()
    theirs.save_pretrained(tmp_path / "sd" / "vae")
    source, output = write_images(tmp_path / "images.h5", channels), tmp_path / "z.h5"
    assert run(["extract-latents", str(source), "--vae", str(tmp_path / "sd"), "-o", str(output)]) == 0
    with open_set(source, random_access=True) as images, open_set(output, random_access=True) as latents:
        pixels = torch.from_numpy(images.column("image")).float() / 127.5 - 1
        expected = theirs.encode(pixels.expand(-1, 3, -1, -1)).latent_dist.mean
        torch.testing.assert_close(torch.from_numpy(latents.column("latent")), expected, atol=1e-5, rtol=1e-4)
        assert latents.header.latent_scale == 0.18215
        assert latents.header.intensity == BYTES


def test_a_pickle_is_refused_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    (tmp_path / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    source = write_images(tmp_path / "images.h5", 3)
    assert run(["extract-latents", str(source), "--vae", str(tmp_path), "-o", str(tmp_path / "z.h5")]) == 65
    assert "pickle" in capsys.readouterr().err


PROMPTS = (
    "A chest X-ray of the chest, it's a cheese ray",
    "",
    "  Größe 12²  (½) Ⅷ \n naïve café 肺 🫁!!",
    "wow!! don't'tve _a_ <|endoftext|> b",
    " ".join(["pneumothorax"] * 9),
)


@pytest.fixture(scope="module", params=FLAVOURS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    """A whole pipeline of random weights, its folder, and the name of its flavour."""
    flavour = request.param
    path = tmp_path_factory.mktemp("pipelines") / flavour
    theirs = pipeline(flavour)
    theirs.save_pretrained(path)
    return flavour, path, theirs


Folder = tuple[str, Path, Any]


def test_prompts_are_read_as_clip_reads_them(folder: Folder) -> None:
    flavour, path, theirs = folder
    reader = read_tokenizer(path / "tokenizer")
    expected = theirs.tokenizer(list(PROMPTS), padding="max_length", truncation=True, max_length=LENGTH)["input_ids"]
    assert reader.read(PROMPTS)["words"].tolist() == expected
    assert reader.cut("chest ray") == ""
    assert reader.cut(PROMPTS[4]).endswith("pneumothorax")
    assert reader.unknown(PROMPTS[2]) == []
    # Folders of today hold one file, those of Stable Diffusion's publishers two.
    tokens = json.loads((path / "tokenizer" / "tokenizer.json").read_text())["model"]
    pair = path.parent / f"pair-{flavour}"
    pair.mkdir()
    (pair / "vocab.json").write_text(json.dumps(tokens["vocab"]))
    (pair / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, tokens["merges"])) + "\n")
    shutil.copy(path / "tokenizer" / "tokenizer_config.json", pair)
    assert read_tokenizer(pair) == reader


def test_states_and_a_call_equal_those_of_diffusers(folder: Folder) -> None:
    _, path, theirs = folder
    ours = Denoiser.load(path, torch.device("cpu"), "float32")
    reads = prompts_of(ours.network.config, ours.facts, ours.device, None)
    assert reads is not None
    asked = Condition(**reads.read(PROMPTS[:2], ["", ""]))
    filled = {"padding": "max_length", "truncation": True, "max_length": LENGTH, "return_tensors": "pt"}
    told = theirs.tokenizer(list(PROMPTS[:2]), **filled)
    expected = theirs.text_encoder(told.input_ids)[0]
    states = ours.prepared(asked).tokens
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)
    # The empty prompt is "no condition".
    torch.testing.assert_close(ours.network.null_context[0], expected[1], atol=1e-5, rtol=1e-5)
    x, time = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([7.0, 801.0])
    torch.testing.assert_close(ours(x, time, asked), theirs.unet(x, time, expected).sample, atol=1e-4, rtol=0)


def generated(model: Path, output: Path, *options: str) -> np.ndarray:
    arguments = ["--prompt", PROMPTS[0], "--negative-prompt", "cheese", "-n", "2", "--sampler", "ddim", "--steps", "5"]
    rest = ["--times", "trailing", "--guidance", "3", "--precision", "float32", "-o", str(output)]
    assert run(["generate", str(model), *arguments, *rest, *options]) == 0
    with open_set(output, random_access=True) as stored:
        assert stored.header.intensity == BYTES
        return stored.column("image")


def drawn(theirs: Any, facts: DenoiserFacts) -> np.ndarray:
    """What the pipeline of diffusers draws from the same noise, as bytes."""
    noise = NoiseStream(0, range(2), facts.shape, torch.device("cpu")).initial()
    images = theirs(
        [PROMPTS[0]] * 2, negative_prompt=["cheese"] * 2, latents=noise, num_inference_steps=5, guidance_scale=3.0,
        output_type="pt",
    ).images  # fmt: skip
    return images.mul(255).numpy()


def test_generate_draws_what_the_pipeline_draws(folder: Folder, tmp_path: Path) -> None:
    _, path, theirs = folder
    theirs.scheduler.final_alpha_cumprod = torch.tensor(1.0)  # ours ends at the data, not one step of noise before
    images = generated(path, tmp_path / "s.h5")
    assert images.shape == (2, 3, SIDE, SIDE)
    assert images.dtype == np.uint8
    assert images.std() > 20
    facts = DenoiserFacts.read(import_denoiser(path).facts, "")
    assert np.abs(images - drawn(theirs, facts)).max() <= 0.51


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a pipeline, by folder and name, without what older and newer names differ in."""
    files = {file.parent.name: file for file in folder.glob("*/*.safetensors")}
    return {
        f"{part}/{name.removeprefix('text_model.')}": weight
        for part, file in files.items()
        for name, weight in safetensors.torch.load_file(file).items()
    }


def test_the_way_back_gives_the_same_bits_and_the_pipeline_draws_the_same(folder: Folder, tmp_path: Path) -> None:
    _, path, theirs = folder
    assert run(["export", str(path), "--to", "diffusers", "-o", str(tmp_path / "back")]) == 0
    ours, expected = weights_of(tmp_path / "back"), weights_of(path)
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "back", local_files_only=True)
    again.set_progress_bar_config(disable=True)
    theirs.scheduler.final_alpha_cumprod = torch.tensor(1.0)
    facts = DenoiserFacts.read(import_denoiser(path).facts, "")
    np.testing.assert_array_equal(drawn(again, facts), drawn(theirs, facts))
    assert read_tokenizer(tmp_path / "back" / "tokenizer") == read_tokenizer(path / "tokenizer")
    # What comes back once more is the same model, by its digest.
    assert import_denoiser(tmp_path / "back").digest == import_denoiser(path).digest


TRAINING = ("--steps", "2", "--batch-size", "2", "--learning-rate", "0.01", "--set", "loop.ema=0")


@pytest.fixture(scope="module")
def latents(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latents")
    source = write_images(path / "images.h5", 3, modality="X-ray")
    assert run(["extract-latents", str(source), "--vae", str(folder[1]), "-o", str(path / "z.h5")]) == 0
    return path / "z.h5"


def test_training_begins_from_the_folder_and_is_exported(
    folder: Folder, latents: Path, tmp_path: Path, capsys: Any
) -> None:
    flavour, path, _ = folder
    parts = "all" if flavour == "1.5" else "cross-attention"
    tuned, back = tmp_path / "tuned.safetensors", tmp_path / "back"
    arguments = ["--init", str(path), "--train-parts", parts, *TRAINING, "-o", str(tuned)]
    assert run(["train-diffusion", str(latents), "--no-search-guidance", *arguments]) == 0
    assert capsys.readouterr().err.count("the set's modalities are not used") == 1
    before, after = import_denoiser(path).weights(), open_model(tuned, kind="denoiser").weights()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith(("text.", "null_context")) for name in changed)
    if parts == "all":
        assert {name for name in before if name.startswith("down.")} <= changed
    else:
        assert changed
        assert all(".cross_attention." in name for name in changed)
    assert run(["export", str(tuned), "--to", "diffusers", "--vae", str(path), "-o", str(back)]) == 0
    assert open_model(tuned).facts["guidance"] == 7.5
    images = generated(tuned, tmp_path / "s.h5", "--vae", str(path))
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(back, local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    assert np.abs(images - drawn(theirs, DenoiserFacts.read(open_model(tuned).facts, ""))).max() <= 0.51


@pytest.mark.parametrize("folder", ["2.1"], indirect=True)
def test_an_adapter_of_the_folder_on_grey_images(folder: Folder, tmp_path: Path) -> None:
    _, path, _ = folder
    source, z, adapter = write_images(tmp_path / "grey.h5", 1), tmp_path / "z.h5", tmp_path / "adapter.safetensors"
    assert run(["extract-latents", str(source), "--vae", str(path), "-o", str(z)]) == 0
    arguments = ["--init", str(path), "--lora", "cross-attention", *TRAINING, "-o", str(adapter)]
    assert run(["train-diffusion", str(z), "--no-search-guidance", *arguments]) == 0
    grey = generated(path, tmp_path / "grey-samples.h5", "--adapter", str(adapter))
    assert grey.shape == (2, 1, SIDE, SIDE)
    colour = generated(path, tmp_path / "colour.h5", "--adapter", f"{adapter}:0", "--vae", str(path))
    assert colour.shape == grey.shape
    assert (colour != grey).any()


@pytest.mark.parametrize("folder", ["1.5"], indirect=True)
@pytest.mark.parametrize("lora", [[], ["--lora", "attention"]], ids=["all", "lora"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--objective", "v"], "objective (eps there, v here)"),
        (["--set", "network.blocks=3"], "network.blocks (1 there, 3 here)"),
        (["--set", "schedule.steps=500"], "schedule ("),
    ],
    ids=["objective", "network", "schedule"],
)
def test_options_that_are_not_those_of_the_folder_are_refused(
    folder: Folder, latents: Path, lora: list[str], change: list[str], message: str, tmp_path: Path, capsys: Any
) -> None:
    arguments = ["--init", str(folder[1]), *lora, *change, *TRAINING, "-o", str(tmp_path / "m.safetensors")]
    assert run(["train-diffusion", str(latents), *arguments]) == 65
    assert message in capsys.readouterr().err
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize("folder", ["2.1"], indirect=True)
def test_latents_of_another_scale_are_refused(folder: Folder, tiny: Path, tmp_path: Path, capsys: Any) -> None:
    z = tmp_path / "z.h5"
    made = ["extract-latents", str(tiny / "images.h5"), "--vae", str(tiny / "vae.safetensors"), "-o", str(z)]
    assert run(made) == 0
    arguments = ["--init", str(folder[1]), *TRAINING, "-o", str(tmp_path / "m.safetensors")]
    assert run(["train-diffusion", str(z), *arguments]) == 65
    assert "extract-latents --vae FOLDER" in capsys.readouterr().err


def test_what_did_not_begin_as_stable_diffusion_is_not_exported(tiny: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ["--to", "diffusers", "--vae", str(tiny / "vae.safetensors"), "-o", str(tmp_path / "out")]
    assert run(["export", str(tiny / "model.safetensors"), *arguments]) == 65
    assert "can be exported to diffusers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("place", "change", "status", "message"),
    [
        ("text_encoder/model.safetensors", "pytorch_model.bin", 65, "a pickle"),
        ("unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", 65, "a pickle"),
        ("scheduler/scheduler_config.json", None, 66, "scheduler_config.json: no such file"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "squaredcos_cap_v2"}, 65, "beta_schedule"),
        ("tokenizer/tokenizer.json", {"model": {"vocab": {"a": 0, "b": 2}, "merges": [["a", "b"]]}}, 65, "numbered"),
        ("tokenizer/tokenizer.json", {"model": []}, 65, "does not map subwords to numbers"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "LCMScheduler"},
            65,
            "LCMScheduler is for models of another",
        ),
        ("vae", "vee", 66, "has no folder 'vae'"),
        ("vae/config.json", {"scaling_factor": None}, 65, "scaling_factor = None is not as diffusers writes it"),
        ("unet/config.json", {"attention_head_dim": None}, 65, "attention_head_dim = None is not as"),
        ("unet/config.json", {"sample_size": "64"}, 65, "sample_size = 64 is not as"),
        ("text_encoder/config.json", {"num_hidden_layers": 3}, 65, "layers.2.self_attn.q_proj.weight"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, 65, "addition_embed_type"),
    ],
)
@pytest.mark.parametrize("folder", ["1.5"], indirect=True)
def test_a_folder_that_is_not_whole_is_refused_by_name(
    folder: Folder, place: str, change: Any, status: int, message: str, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(folder[1], tmp_path / "sd")
    file = tmp_path / "sd" / place
    if isinstance(change, dict):
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    elif change is None:
        file.unlink()
    else:
        file.rename(file.with_name(change))
    assert run(["generate", str(tmp_path / "sd"), "--prompt", "chest", "-o", str(tmp_path / "s.h5")]) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "s.h5").exists()


@pytest.mark.parametrize("folder", ["1.5"], indirect=True)
def test_half_precision_weights_are_read_where_there_are_no_others(folder: Folder, tmp_path: Path) -> None:
    shutil.copytree(folder[1], tmp_path / "sd")
    for file in (tmp_path / "sd").glob("*/*.safetensors"):
        halved = {name: weight.half() for name, weight in safetensors.torch.load_file(file).items()}
        safetensors.torch.save_file(halved, file.with_suffix(".fp16.safetensors"))
        file.unlink()
    state = import_denoiser(tmp_path / "sd").weights()
    expected = import_denoiser(folder[1]).weights()
    assert all(weight.dtype == torch.float32 for weight in state.values())
    torch.testing.assert_close(state["down.input.weight"], expected["down.input.weight"].half().float())


@pytest.mark.parametrize("folder", ["2.1"], indirect=True)
def test_weights_in_several_files_and_images_that_are_not_square(folder: Folder, tmp_path: Path, capsys: Any) -> None:
    unet = tmp_path / "sd" / "unet"
    shutil.copytree(folder[1], unet.parent)
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    folder[2].unet.save_pretrained(unet, max_shard_size="20KB")
    assert len(list(unet.glob("*-of-*.safetensors"))) > 1
    config = json.loads((unet / "config.json").read_text())
    (unet / "config.json").write_text(json.dumps(config | {"sample_size": [4, 8]}))
    found = import_denoiser(unet.parent)
    assert found.digest == import_denoiser(folder[1]).digest
    assert generated(unet.parent, tmp_path / "s.h5").shape == (2, 3, 8, 16)
    assert run(["export", str(unet.parent), "--to", "diffusers", "-o", str(tmp_path / "back")]) == 0
    assert import_denoiser(tmp_path / "back").facts["shape"] == (4, 4, 8) == found.facts["shape"]
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')
    assert run(["generate", str(unet.parent), "--prompt", "chest", "-o", str(tmp_path / "t.h5")]) == 65
    assert "does not say which file holds which weight" in capsys.readouterr().err
