from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medgen.errors import DataError
from medgen.evaluation.features.extractors import (
    as_colour,
    builtin_extractor,
    eight_bits,
    file_extractor,
    inception_extractor,
    latent_extractor,
    torchscript_extractor,
)
from medgen.evaluation.options import TorchScriptOptions
from medgen.nets.perception.inception import InceptionV3

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
SIGNED = TorchScriptOptions()


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float().flatten(1)


class Classifier(nn.Module):
    """As published Inception scripts: classes, unless features are asked for."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        return x.float().mean((2, 3)) if return_features else x.float().mean((1, 2, 3)).unsqueeze(1).repeat(1, 9)


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    save_file(InceptionV3().state_dict(), path)
    return path


def script(path: Path, module: nn.Module) -> Path:
    torch.jit.script(module).save(str(path))  # type: ignore[no-untyped-call]
    return path


def test_eight_bits_round_as_image_files_do() -> None:
    levels = torch.arange(256)
    images = (levels / 127.5 - 1).view(1, 1, 16, 16)
    assert torch.equal(eight_bits(images).flatten(), levels.to(torch.uint8))
    assert eight_bits(torch.tensor([-1.2, 1.2, 0.6 / 127.5 - 1])).tolist() == [0, 255, 1]  # not cut off downwards


def test_inception_sees_generated_floats_as_the_images_they_are_saved_as(weights_file: Path) -> None:
    extractor = inception_extractor(weights_file)
    generated = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    saved = np.rint((generated.numpy() + 1) * 127.5).astype(np.uint8)
    read_again = torch.from_numpy(saved.astype(np.float32) / 127.5 - 1)
    assert not torch.equal(generated, read_again)
    assert torch.equal(extractor.pooled(generated), extractor.pooled(read_again))
    # Gray is three equal bands.
    assert torch.equal(extractor.pooled(generated), extractor.pooled(generated.expand(-1, 3, -1, -1)))


def test_inception_gives_features_and_probabilities_and_depends_on_the_weights_alone(weights_file: Path) -> None:
    extractor = file_extractor(weights_file, SIGNED)
    assert extractor.is_inception
    features = extractor.pooled(torch.rand(2, 3, 20, 30) * 2 - 1)
    assert features.shape == (2, 2048)
    assert extractor.probabilities is not None
    probabilities = extractor.probabilities(features)
    assert probabilities.shape == (2, 1008)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))
    renamed = weights_file.with_name("again.safetensors")
    renamed.write_bytes(weights_file.read_bytes())
    assert file_extractor(renamed, SIGNED).digest == extractor.digest


def test_weights_of_another_network_are_named_as_such(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"other\.safetensors: not weights of Inception v3"):
        file_extractor(tmp_path / "other.safetensors", SIGNED)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.tensor([0.0, float("nan")])}, tmp_path / "bad.safetensors")
    with pytest.raises(DataError, match=r"bad\.safetensors: weight 'conv\.weight' is not finite"):
        file_extractor(tmp_path / "bad.safetensors", SIGNED)


def test_a_torchscript_gets_the_range_and_bands_that_the_options_name(tmp_path: Path) -> None:
    path = script(tmp_path / "flat.pt", Flat())
    gray = torch.tensor([[[[-1.0, 1.0], [0.0, 0.5]]]])
    signed = file_extractor(path, SIGNED)
    assert not signed.is_inception
    assert signed.name == "torchscript"
    torch.testing.assert_close(signed.pooled(gray), gray.flatten(1).repeat(1, 3))
    unit = torchscript_extractor(path, TorchScriptOptions(range=(0.0, 1.0), bands=1))
    torch.testing.assert_close(unit.pooled(gray), torch.tensor([[0.0, 1.0, 0.5, 0.75]]))
    whole = torchscript_extractor(path, TorchScriptOptions(range=(0.0, 255.0), bands=1))
    torch.testing.assert_close(whole.pooled(gray), torch.tensor([[0.0, 255.0, 128.0, 191.0]]))
    colour = torch.stack([torch.full((2, 2), value) for value in (-1.0, 0.0, 0.5)])[None]
    assert signed.pooled(colour)[0, ::4].tolist() == [-1.0, 0.0, 0.5]  # red, green, blue


def test_a_torchscript_with_classes_is_asked_for_features(tmp_path: Path) -> None:
    extractor = file_extractor(script(tmp_path / "net.pt", Classifier()), SIGNED)
    assert extractor.pooled(torch.zeros(4, 1, 8, 8)).shape == (4, 3)
    assert extractor.probabilities is None  # and its numbers are not called FID


def test_a_torchscript_that_gives_no_features_is_refused(tmp_path: Path) -> None:
    class Map(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    class Fussy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(-1, 7)

    with pytest.raises(DataError, match=r"must give features \(B, F\)"):
        file_extractor(script(tmp_path / "map.pt", Map()), SIGNED).pooled(torch.zeros(2, 1, 8, 8))
    with pytest.raises(DataError, match=r"fails on images \(2, 3, 8, 8\)"):
        file_extractor(script(tmp_path / "fussy.pt", Fussy()), SIGNED).pooled(torch.zeros(2, 1, 8, 8))


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("entry", ["data.pkl", "constants.pkl"])
def test_a_pickle_inside_a_torchscript_is_not_run(tmp_path: Path, entry: str) -> None:
    good = script(tmp_path / "good.pt", Flat())
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung), protocol=2)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(tmp_path / "bad.pt", "w") as target:
        for name in source.namelist():
            target.writestr(name, trap if name.endswith(f"/{entry}") else source.read(name))
    with pytest.raises(DataError, match=r"bad\.pt: a TorchScript that torch .* cannot read"):
        file_extractor(tmp_path / "bad.pt", SIGNED)
    assert not sprung.exists()
    pickle.loads(trap)  # noqa: S301 - the trap works
    assert sprung.exists()


@pytest.mark.parametrize(("name", "zipped"), [("w.pth", True), ("w.pt", True), ("w.pth", False)])
def test_pickles_are_refused_with_the_way_to_convert_them(tmp_path: Path, name: str, zipped: bool) -> None:
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=r"a pickle.*convert it once: safetensors"):
        file_extractor(tmp_path / name, SIGNED)


def test_an_encoder_gives_the_means_of_its_latents_over_a_grid() -> None:
    def encode(images: Tensor) -> Tensor:
        return torch.cat([images, images.flip(-1)], dim=1)

    extractor = latent_extractor(encode, "d" * 64)
    images = torch.rand(3, 1, 16, 16)
    features = extractor.pooled(images)
    assert features.shape == (3, 2 * 16 + 2)
    torch.testing.assert_close(features[:, 0], images[:, 0, :4, :4].mean((1, 2)))
    torch.testing.assert_close(features[:, 19], images[:, 0, :4, :4].mean((1, 2)))
    torch.testing.assert_close(features[:, 32], images.std((2, 3))[:, 0])


def test_the_builtin_features_are_fixed() -> None:
    extractor = builtin_extractor()
    assert not extractor.is_inception
    assert extractor.digest.startswith("67f3a4d1d14b")  # change the version's name when you change this


def test_other_bands_than_gray_or_colour_have_no_colour() -> None:
    with pytest.raises(DataError, match="2 bands are neither gray nor colour"):
        as_colour(torch.zeros(1, 2, 8, 8))
