"""The policy step on a tiny model of noise, whose images are liked the brighter they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from medgen.artifacts.model_file import open_model, save_model
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set
from medgen.diffusion.options import ScheduleConfig
from medgen.errors import DataError
from medgen.feedback.alignment.align_options import (
    ALIGN_OPTIONS,
    AlignLoop,
    AlignOptions,
    DDPOOptions,
    DPOOptions,
    NFTOptions,
    RWROptions,
)
from medgen.feedback.alignment.held_out import HeldOut
from medgen.feedback.alignment.learner import AlignLearner, Reward, Shown, Verdict
from medgen.feedback.alignment.sources import Asked, AskedGroups
from medgen.feedback.alignment.train import space_of, trainable, write
from medgen.models.facts import DenoiserFacts
from medgen.models.trained import Denoiser
from medgen.nets.blocks import Upsample
from medgen.nets.condition import Condition
from medgen.nets.options import LoraConfig, UNetConfig
from medgen.nets.unet import UNet
from medgen.training.data.step import seeded
from medgen.training.loop.run import BatchSources, Run, start

SIDE = 16
NETWORK = UNetConfig(
    in_channels=1, out_channels=1, widths=(8, 8), blocks=1, attention=("none", "full"), mid_attention="none",
    head_width=8, time_width=16, groups=4, vector_size=1, vector_hidden=8,
)  # fmt: skip
LOOP = AlignLoop(steps=8, batch_size=16, learning_rate=3e-3, precision="float32", save_every=3, warmup=0)
RATES = {NFTOptions: 3e-3, RWROptions: 3e-3, DPOOptions: 1e-3, DDPOOptions: 3e-3}


class Reporter:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.report: dict[str, Any] = {}
        self.said: list[str] = []
        self.warnings: list[str] = []

    def detail(self, message: str) -> None: ...

    def say(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    @contextlib.contextmanager
    def progress(self, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
        yield lambda count=1, note="": None


def write_model(path: Path, objective: str = "v") -> None:
    with seeded(0, "test"):
        unet = UNet(NETWORK)
        with torch.no_grad():
            for weight in unet.parameters():
                if not weight.any():  # begins as zero: not so in a trained model
                    weight.normal_(0, 0.05)
    facts = DenoiserFacts(
        space="image", shape=(1, SIDE, SIDE), schedule=msgspec.to_builtins(ScheduleConfig()), objective=objective,
        intensity=Intensity(), vector_fields=("x",),
    )  # fmt: skip
    provenance = derive("train-diffusion", {}, sources="source-test")
    save_model(
        path, kind="denoiser", config=msgspec.to_builtins(NETWORK), weights=unet.state_dict(),
        facts=msgspec.to_builtins(facts), provenance=provenance,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.safetensors, and real.h5: images that are dark noise."""
    made = tmp_path_factory.mktemp("align")
    write_model(made / "model.safetensors")
    random = np.random.default_rng(0)
    header = SetHeader(
        kind="image", provenance=derive("test", {}, sources="s"), intensity=Intensity(), vector_fields=("x",)
    )
    with create_set(made / "real.h5", header) as writer:
        for index in range(24):
            arrays = {
                "image": random.normal(-600, 200, (1, 1, SIDE, SIDE)).astype(np.int16),
                "vector": np.array([[index / 24]], np.float32),
            }
            writer.write(Case(f"case-{index}", arrays, ("train", "val")[index % 2]))
    return made


def asked() -> Asked:
    return Asked(range(4), lambda numbers: Condition(vector=torch.tensor([[number / 4] for number in numbers])))


def bright(images: Tensor, numbers: Sequence[int]) -> Tensor:
    return images.mean((1, 2, 3))


def brightish(shown: Shown) -> list[bool | None]:
    """Whether each image is brighter in its first pixel than in the next."""
    return [bool(first > second) for images, _ in shown for first, second in images[:, 0, 0, :2]]


def aligned(
    folder: Path, output: Path, options: AlignOptions, reward: Reward = bright, reporter: Reporter | None = None,
    model: str = "model.safetensors", verdict: Verdict | None = None,
) -> AlignLearner:  # fmt: skip
    run = Run("align", str(folder / "real.h5"), output, torch.device("cpu"), reporter or Reporter())
    with start(run, options) as training:
        denoiser = Denoiser.load(folder / model, training.device, "float32", tuned=False)
        space = space_of(denoiser.facts, None)
        held_out = HeldOut(training.stored, space.facts, space.shape, training.device, training.reporter.warn)
        assert list(held_out.slices) == list(range(1, 24, 2))
        unet = trainable(denoiser.network, options)
        learner = AlignLearner(options, unet, space, reward, asked(), None, held_out, training.reporter, verdict)
        source = AskedGroups(asked(), options.group, options.seed)
        fitted = training.fit(learner, options, BatchSources(source, None), [denoiser.model])
        write(training, fitted, learner, denoiser, options)
    return learner


def options_of(kind: type[AlignOptions], **changes: Any) -> Any:
    loop = msgspec.structs.replace(LOOP, learning_rate=RATES[kind])
    return kind(**{"loop": loop, "group": 8, "max_rise": 1e9, "check_images": 16, "sampling_steps": 3} | changes)


@pytest.mark.parametrize("kind", ALIGN_OPTIONS)
def test_every_method_raises_the_score(folder: Path, tmp_path: Path, kind: type[AlignOptions]) -> None:
    learner = aligned(folder, tmp_path / "out.safetensors", options_of(kind))
    figures = learner.figures
    assert figures["score_after"] > figures["score_before"] + 0.02
    assert open_model(tmp_path / "out.safetensors", kind="denoiser").facts["updates"] == 8


def test_another_objective_and_a_reward_turned_round(folder: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors", "eps")
    found = aligned(
        folder, tmp_path / "out.safetensors", options_of(NFTOptions), model=str(tmp_path / "model.safetensors")
    )
    assert found.figures["score_after"] > found.figures["score_before"]


def test_it_stops_at_the_bound_and_says_that_it_may_be_hacked(folder: Path, tmp_path: Path) -> None:
    reporter = Reporter()
    options = options_of(NFTOptions, max_rise=0.0, check_every=2)
    learner = aligned(folder, tmp_path / "out.safetensors", options, reporter=reporter)
    assert any("reward hacking" in warning for warning in reporter.warnings)
    assert learner.figures["frechet_after"] <= learner.figures["frechet_before"]
    assert learner.figures["updates"] < 8
    before, after = (
        open_model(path).weights() for path in (folder / "model.safetensors", tmp_path / "out.safetensors")
    )
    same = all(torch.equal(before[name], after[name]) for name in before)
    assert same == (learner.figures["updates"] == 0)


def test_a_killed_alignment_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    loop = msgspec.structs.replace(LOOP, steps=4, save_every=2)
    options = options_of(NFTOptions, loop=loop, check_every=2)
    aligned(folder, tmp_path / "whole.safetensors", options, verdict=brightish)
    assert 0 < open_model(tmp_path / "whole.safetensors").facts["verified_after"] < 1
    calls = []

    def breaks(images: Tensor, numbers: Sequence[int]) -> Tensor:
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("killed")
        return bright(images, numbers)

    with pytest.raises(RuntimeError, match="killed"):
        aligned(folder, tmp_path / "resumed.safetensors", options, breaks, verdict=brightish)
    assert (tmp_path / "resumed.safetensors.resume").exists()
    aligned(folder, tmp_path / "resumed.safetensors", options, verdict=brightish)
    assert (tmp_path / "whole.safetensors").read_bytes() == (tmp_path / "resumed.safetensors").read_bytes()


def test_an_adapter_alone_is_trained_and_written(folder: Path, tmp_path: Path) -> None:
    options = options_of(NFTOptions, lora=LoraConfig(parts=("all",), rank=4))
    learner = aligned(folder, tmp_path / "out.safetensors", options)
    assert learner.figures["score_after"] > learner.figures["score_before"]
    written = open_model(tmp_path / "out.safetensors", kind="adapter")
    assert written.facts["base_digest"] == open_model(folder / "model.safetensors").digest
    assert all(".lora." in name for name in written.weights())


def test_scores_without_spread_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="same score"):
        aligned(folder, tmp_path / "out.safetensors", options_of(NFTOptions), lambda x, _: torch.ones(len(x)))


def test_all_weights_are_trained_also_where_inference_had_computed_a_kernel_from_them(folder: Path) -> None:
    network = Denoiser.load(folder / "model.safetensors", torch.device("cpu"), "float32", tuned=False).network
    unet = trainable(network, options_of(NFTOptions))
    x = torch.randn(2, unet.config.in_channels, 16, 16)
    unet(x, torch.tensor([10.0, 500.0])).square().mean().backward()
    convolutions = [part.conv for part in unet.modules() if isinstance(part, Upsample)]
    assert convolutions
    assert all(one.weight.grad is not None for one in convolutions)
