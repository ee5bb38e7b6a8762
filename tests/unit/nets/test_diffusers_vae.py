"""Our VAE with weights from a diffusers folder computes what diffusers computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from medgen.config import convert
from medgen.errors import DataError, InputMissingError
from medgen.models.diffusers.reading import import_vae
from medgen.models.facts import VAEFacts
from medgen.nets.options import VAEConfig
from medgen.nets.vae import VAE

diffusers = pytest.importorskip("diffusers")

SD_LIKE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (8, 16, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "norm_num_groups": 4,
}
CONFIGS = {
    "stable-diffusion-1": SD_LIKE | {"scaling_factor": 0.18215},
    "stable-diffusion-3": SD_LIKE
    | {
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
    },
    "no-attention-one-channel": SD_LIKE | {"in_channels": 1, "out_channels": 1, "mid_block_add_attention": False},
    "one-level-one-block": {
        "block_out_channels": (8,),
        "norm_num_groups": 2,
        "layers_per_block": 1,
    },
}
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def save(config: dict, folder: Path):
    """A diffusers VAE with every weight random, so that no zero or one hides a wrong key."""
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(**config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(folder)
    return theirs


def load(folder: Path) -> VAE:
    model = import_vae(folder)
    ours = VAE(convert(VAEConfig, model.config, "")).eval()
    ours.load_state_dict(model.weights())
    return ours


def assert_same_outputs(ours: VAE, theirs, channels: int) -> None:
    x = torch.rand(2, channels, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected = theirs.encode(x).latent_dist
        posterior = ours.encode(x)
        torch.testing.assert_close(posterior.mean, expected.mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(posterior.logvar, expected.logvar, atol=1e-5, rtol=1e-5)
        decoded = theirs.decode(expected.mean).sample
        torch.testing.assert_close(ours.decode(expected.mean), decoded, atol=1e-5, rtol=1e-5)
    assert decoded.std() > 1e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_equal_diffusers(name, tmp_path):
    theirs = save(CONFIGS[name], tmp_path)
    assert_same_outputs(load(tmp_path), theirs, CONFIGS[name].get("in_channels", 3))


@pytest.mark.parametrize("as_convolution", [False, True])
def test_older_attention_names(as_convolution, tmp_path):
    theirs = save(SD_LIKE, tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    renamed = {}
    for key, value in safetensors.torch.load_file(file).items():
        for new, old in OLD_NAMES.items():
            if f"attentions.0.{new}." in key:
                key = key.replace(new, old)
                value = value[:, :, None, None] if as_convolution and value.ndim == 2 else value
        renamed[key] = value
    assert any("proj_attn" in key for key in renamed)
    safetensors.torch.save_file(renamed, file)
    assert_same_outputs(load(tmp_path), theirs, 3)


def test_whole_pipeline_folder_whatever_scales_its_latents(tmp_path):
    scaled = {"latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}
    save(CONFIGS["stable-diffusion-3"] | scaled, tmp_path / "vae")
    assert "latents_mean" in json.loads((tmp_path / "vae" / "config.json").read_text())
    assert len(import_vae(tmp_path).config["widths"]) == 4


@pytest.mark.parametrize("absent", ["scaling_factor", "shift_factor", "latents_mean", "use_quant_conv"])
def test_what_an_older_folder_does_not_say_is_what_diffusers_takes(tmp_path, absent):
    save(SD_LIKE, tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings.pop(absent, None)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path).config
    ours = VAEFacts.read(import_vae(tmp_path).facts, "")
    assert (ours.latent_scale, ours.latent_shift) == (theirs.scaling_factor, theirs.shift_factor or 0.0)


def test_half_precision_weights_become_float32(tmp_path):
    save(SD_LIKE, tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    halved = {key: value.half() for key, value in safetensors.torch.load_file(file).items()}
    safetensors.torch.save_file(halved, file)
    assert all(value.dtype == torch.float32 for value in import_vae(tmp_path).weights().values())


def test_pickle_is_refused_with_the_remedy(tmp_path):
    save(SD_LIKE, tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").rename(tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(DataError, match=r"pickle.*safetensors"):
        import_vae(tmp_path)


def test_missing_folder_and_files(tmp_path):
    with pytest.raises(InputMissingError, match="no such folder"):
        import_vae(tmp_path / "nothing")
    with pytest.raises(InputMissingError, match=r"config\.json"):
        import_vae(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputMissingError, match="safetensors"):
        import_vae(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "relu"}, "act_fn"),
        ({"_class_name": "VQModel"}, "VQModel"),
        ({"use_post_quant_conv": False}, "use_post_quant_conv"),
        ({"layers_per_block": 3}, "lack"),
        ({"mid_block_add_attention": False}, "hold"),
        ({"latent_channels": 5}, "shape"),
    ],
)
def test_unsupported_or_mismatched_config(change, message, tmp_path):
    save(SD_LIKE, tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=message):
        import_vae(tmp_path)


def test_truncated_weights(tmp_path):
    save(SD_LIKE, tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        import_vae(tmp_path)
