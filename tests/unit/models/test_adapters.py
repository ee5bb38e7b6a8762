"""Adapters in files: ours and those of the library peft, which answer alike."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medgen.artifacts.model_file import Model, save_model
from medgen.artifacts.provenance import derive
from medgen.cli.app import run
from medgen.config import convert, plain
from medgen.errors import DataError
from medgen.models.adapters import Adapter, adapted_weights
from medgen.models.peft_folder import CONFIG, WEIGHTS, read_peft_folder
from medgen.nets.blocks import Upsample
from medgen.nets.lora.four_bit import quantize
from medgen.nets.lora.low_rank import adapt, changes_of, of_changes
from medgen.nets.lora.parts import layers_of
from medgen.nets.options import LoraConfig, UNetConfig
from medgen.nets.unet import UNet
from tests.conftest import write_denoiser

LORA = LoraConfig(parts=("all",), rank=3, alpha=1.5)


@pytest.fixture
def base(tmp_path: Path) -> Model:
    return write_denoiser(tmp_path / "base.safetensors", None, fields=())


def network(model: Model) -> UNet:
    made = UNet(convert(UNetConfig, model.config, "model"))
    made.load_state_dict(model.weights())
    for part in made.modules():
        if isinstance(part, Upsample):  # peft's changes act only where a layer is called
            part.fused = False
    return made.eval()


def answer(network: nn.Module) -> Tensor:
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output: Tensor = network(x, torch.tensor([10.0, 500.0]))
    return output


def trained(model: Model) -> UNet:
    """The network of a model with an adapter that changes its answers."""
    adapted = network(model)
    torch.manual_seed(3)
    adapt(adapted, layers_of(adapted, LORA.parts), LORA.rank, LORA.scale)
    for change in changes_of(adapted).values():
        nn.init.normal_(change.up.weight, std=0.1)  # type: ignore[arg-type]
    return adapted


def saved(path: Path, adapted: UNet, model: Model, four_bit: Sequence[str] = ()) -> Path:
    save_model(
        path, kind="adapter", config=plain(LORA), weights=of_changes(adapted.state_dict()),
        facts={"base_kind": model.kind, "base_digest": model.digest, "model": model.facts, "four_bit": four_bit},
        provenance=derive("train-diffusion", {}),
    )  # fmt: skip
    return path


def merged(model: Model, adapter: object) -> UNet:
    made = network(model)
    made.load_state_dict(adapted_weights(model, [Adapter.open(str(adapter))]))
    return made


def test_peft_answers_as_we_do_with_the_adapter_that_we_export(base: Model, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    adapted = trained(base)
    file, folder = saved(tmp_path / "a.safetensors", adapted, base), tmp_path / "folder"
    assert run(["export", str(file), "--to", "peft", "-o", str(folder)]) == 0
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(network(base)), str(folder)).eval()
    wanted = answer(adapted)
    assert (wanted - answer(network(base))).abs().max() > 0.1
    torch.testing.assert_close(answer(theirs), wanted, atol=1e-5, rtol=1e-4)
    in_one = merged(base, file)
    for name in changes_of(adapted):
        layer = theirs.get_submodule(f"base_model.model.{name}")
        layer.merge()
        weight = in_one.get_submodule(name).weight
        torch.testing.assert_close(weight, layer.base_layer.weight, atol=1e-6, rtol=1e-5, msg=name)
    ours, back = (adapted_weights(base, [Adapter.open(str(one))]) for one in (file, folder))
    assert all(torch.equal(weight, back[name]) for name, weight in ours.items())


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}])
def test_an_adapter_that_peft_saved_answers_as_there(base: Model, settings: dict[str, bool], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["qkv", "conv1", "outputs.0.2"], init_lora_weights=False,
        rank_pattern={"conv1": 2}, alpha_pattern={r"middle\..*\.conv1": 5, "outputs.0.2": 9}, **settings,
    )  # fmt: skip
    theirs = peft.get_peft_model(network(base), config).eval()
    theirs.create_or_update_model_card = lambda folder: None  # peft takes a network's `config` for a dict there
    theirs.save_pretrained(str(tmp_path / "folder"))
    wanted = answer(theirs)
    assert (wanted - answer(network(base))).abs().max() > 0.01
    torch.testing.assert_close(answer(merged(base, tmp_path / "folder")), wanted, atol=1e-5, rtol=1e-4)


def write_peft(base: Model, folder: Path, **changes: object) -> Path:
    file = saved(folder.with_suffix(".safetensors"), trained(base), base)
    assert run(["export", str(file), "--to", "peft", "-o", str(folder)]) == 0
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"bias": "all"}, "bias = all is not supported"),
        ({"peft_type": "LOHA"}, "peft_type = LOHA is not supported"),
        ({"modules_to_save": ["head"]}, "modules_to_save"),
        ({"lora_alpha": "8"}, "lora_alpha = 8 is not a number"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = pissa_niter_4: its changes are to weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = olora: its changes are to weights"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
    ],
)
def test_what_is_more_than_a_low_rank_change_is_refused(
    base: Model, changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read_peft_folder(write_peft(base, tmp_path / "folder", **changes))


def test_a_tensor_that_is_unknown_is_refused(base: Model, tmp_path: Path) -> None:
    import safetensors.torch

    file = write_peft(base, tmp_path / "folder") / WEIGHTS
    tensors = safetensors.torch.load_file(file)
    extra = {**tensors, "base_model.model.lora_embedding_A": torch.zeros(1)}
    safetensors.torch.save_file(extra, file)
    with pytest.raises(DataError, match="tensor 'lora_embedding_A' is unknown or lacks its partner"):
        read_peft_folder(file.parent)
    tensors.pop(min(tensors))
    safetensors.torch.save_file(tensors, file)
    with pytest.raises(DataError, match="is unknown or lacks its partner"):
        read_peft_folder(file.parent)


def test_with_an_adapter_trained_on_four_bits_the_model_is_what_the_adapter_saw(
    base: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    adapted = trained(base)
    exact = answer(adapted)
    names = quantize(adapted)
    wanted = answer(adapted)
    assert (wanted - exact).abs().max() > 0.01
    file = saved(tmp_path / "a.safetensors", adapted, base, names)
    torch.testing.assert_close(answer(merged(base, file)), wanted, atol=1e-5, rtol=1e-4)
    assert torch.equal(answer(merged(base, f"{file}:0")), answer(network(base)))
    assert run(["export", str(file), "--to", "peft", "-o", str(tmp_path / "folder")]) == 0
    assert "was trained on 4-bit weights" in capfd.readouterr().err


def test_two_adapters_add_up_in_any_order(base: Model, tmp_path: Path, make_peft: Callable[[str], Path]) -> None:
    one, two = (Adapter.open(f"{make_peft(name)}:0.5") for name in ("one", "two"))
    both, turned = adapted_weights(base, [one, two]), adapted_weights(base, [two, one])
    alone = [adapted_weights(base, [adapter]) for adapter in (one, two)]
    for name, weight in base.weights().items():
        torch.testing.assert_close(both[name], alone[0][name] + alone[1][name] - weight, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(both[name], turned[name], atol=1e-6, rtol=1e-5)


@pytest.fixture
def make_peft(base: Model, tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        adapted = trained(base)
        torch.manual_seed(len(name) + ord(name[0]))
        for change in changes_of(adapted).values():
            nn.init.normal_(change.up.weight, std=0.1)  # type: ignore[arg-type]
        file = saved(tmp_path / f"{name}.safetensors", adapted, base)
        assert run(["export", str(file), "--to", "peft", "-o", str(tmp_path / name)]) == 0
        return tmp_path / name

    return make


def test_the_command_says_that_files_of_peft_do_not_name_their_model(
    base: Model, make_peft: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, out = make_peft("one"), tmp_path / "out.safetensors"
    assert run(["merge-adapter", str(base.path), str(folder), "-o", str(out)]) == 0
    assert "one: does not say which model it was trained on; only shapes can be compared" in capfd.readouterr().err
