"""Trained networks, ready to run: on their device, at their precision, with their facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from medgen.artifacts.model_file import Model
from medgen.artifacts.schema import SetHeader
from medgen.config import convert
from medgen.errors import ConfigError, DataError, UsageError
from medgen.models.adapters import Adapter, adapted_facts, adapted_weights
from medgen.models.facts import DenoiserFacts, Facts, InterpolatorFacts, LatentFacts, NormalizerFacts, VAEFacts
from medgen.models.kinds import KINDS
from medgen.models.opening import open_network
from medgen.models.precision import Choice, choose, measured_kernels
from medgen.nets.compute import channels_last
from medgen.nets.condition import NOTHING, Condition
from medgen.nets.kernels import DEFAULT, Kernels, use_kernels
from medgen.nets.options import Precision
from medgen.nets.unet import UNet
from medgen.nets.vae import VAE, Posterior

ROWS = 4
"""CPU kernels sum in another order for odd batch sizes, which shows in bfloat16. In batches of a multiple of this, an
image's result has the same bits in any batch, so that shards join into exactly the unsharded result."""

MOST = 12
"""In one thread, torch convolves 1 x 1 by another kernel from 16 rows on (ATen's `use_mkldnn`), whose sums differ."""

NetworkT = TypeVar("NetworkT", bound=nn.Module)
FactsT = TypeVar("FactsT", bound=Facts)


@dataclass(frozen=True)
class Trained(Generic[NetworkT, FactsT]):
    """A network of one kind that runs at its own precision and returns float32; its weights never change."""

    kind: ClassVar[str]

    network: NetworkT
    facts: FactsT
    model: Model
    device: torch.device
    precision: Choice
    kernels: Kernels = DEFAULT

    @classmethod
    def load(
        cls,
        path: Path | Model,
        device: torch.device,
        precision: Precision = "auto",
        *,
        ema: bool = True,
        tuned: bool = True,
        adapters: Sequence[Adapter] = (),
    ) -> Self:
        """The network at `path` or of an opened model, with the averaged weights if `ema` is set and it has them.

        `adapters` are merged into its weights before these are brought to their precision.
        At precision "auto" on a CPU, it also gets the kernels that are fastest there, if `tuned`.
        Raises DataError if the file is of another kind or version, or its weights do not fit.
        """
        model = open_network(path, cls.kind) if isinstance(path, Path) else path
        path = model.path
        kind = KINDS[cls.kind]
        facts: Any = kind.facts.read(adapted_facts(model, adapters), str(path))
        try:
            configuration: Any = convert(kind.configuration, model.config, str(path))
            with torch.device("meta"):  # its weights are read, not made
                network: Any = kind.network(configuration)
        except ConfigError as error:  # not the user's configuration: the file comes from another version
            raise DataError(f"{error}; this version of medgen cannot build the network") from None
        try:
            network.load_state_dict(adapted_weights(model, adapters, ema=ema), assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(f"{path}: the weights do not fit the network that the file describes: {reason}") from None
        chosen = choose(precision, configuration, device)
        tuned = tuned and precision == "auto" and device.type == "cpu"
        kernels = measured_kernels(configuration, chosen.dtype) if tuned else DEFAULT
        # Autocast would keep float32 weights and convert all of them again in each call.
        network.to(device, chosen.dtype).eval().requires_grad_(False)
        use_kernels(network, kernels)
        return cls(network, facts, model, device, chosen, kernels)

    def _parts(self, x: Tensor) -> list[slice]:
        """Rows of images (B, C, H, W) to give to the network at a time, for the same bits in any batch; [] = all."""
        free = len(x) <= MOST or x.ndim != 4 or x.requires_grad  # as in `_padded`
        if free or self.device.type != "cpu" or torch.get_num_threads() > 1:
            return []
        return [slice(start, start + MOST) for start in range(0, len(x), MOST)]

    def _prepared(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) padded and laid out as the network wants them; volumes (B, C, D, H, W) as they are."""
        prepared = _padded(x.to(self.device, non_blocking=True), like=x)
        return channels_last(prepared) if x.ndim == 4 and self.kernels.channels_last else prepared


def precisions(networks: Iterable[Trained[Any, Any]]) -> str:
    """The precisions of a command's networks, in their order, for the provenance; one name if they agree."""
    names = [network.precision.name for network in networks]
    return names[0] if len(set(names)) == 1 else ", ".join(names)


class FrozenVAE(Trained[VAE, VAEFacts]):
    """A VAE between images (B, C, H, W) in [-1, 1] and latents (B, c, h, w). Gradients pass through it to its input."""

    kind = "vae"

    def encode(self, images: Tensor) -> Posterior:
        """Images (B, C, H, W) in [-1, 1], on any device -> posterior over latents (B, c, h, w)."""
        if parts := self._parts(images):
            found = [self.encode(images[rows]) for rows in parts]
            return Posterior(torch.cat([one.mean for one in found]), torch.cat([one.logvar for one in found]))
        with self._own_precision():
            posterior = self.network.encode(self._prepared(images))
        return Posterior(posterior.mean[: len(images)], posterior.logvar[: len(images)])

    def decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents (B, c, h, w) -> images (B, C, H, W), float32, about [-1, 1]."""
        if parts := self._parts(latents):
            return torch.cat([self.decode(latents[rows]) for rows in parts])
        with self._own_precision():
            images = self.network.decode(self._prepared(latents))
        return images[: len(latents)].float()

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> their reconstruction from the mean latent."""
        return self.decode(self.encode(images).mean)

    def _own_precision(self) -> torch.autocast:
        """Use the type of the weights even inside a training's autocast, so that latents equal those of inference."""
        return torch.autocast(self.device.type, enabled=False)

    def latents(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> their mean latents as a network sees them, (B, c, h, w)."""
        return self.facts.latent_space.seen(self.encode(images).mean)

    def images(self, latents: Tensor) -> Tensor:
        """Latents (B, c, h, w) as a network sees them -> images (B, C, H, W)."""
        return self.decode(self.facts.latent_space.unscaled(latents))

    def check_made(self, latents: LatentFacts | SetHeader, holder: str) -> None:
        """DataError unless the latents of the set or model called `holder` were made by this VAE."""
        if self.model.digest != latents.vae_digest:
            raise DataError(
                f"{holder}: has latents of the VAE {latents.vae_digest[:12]}, but {self.model.path} is the VAE "
                f"{self.model.digest[:12]}; give the VAE that made its latents"
            )
        if self.facts.latent_space != latents.latent_space:
            raise DataError(
                f"{holder}: scales its latents differently from its VAE {self.model.path}; extract them again"
            )


class TrainedUNet(Trained[UNet, FactsT]):
    """A UNet of images or volumes, and the facts of its diffusion."""

    @torch.inference_mode()
    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition = NOTHING,
        *,
        head: str | None = None,
    ) -> Tensor:
        """The prediction for x (B, c, *S) at t (B,), with the arguments of `UNet.forward`: (B, c', *S), float32."""
        if parts := self._parts(x):
            return torch.cat([self(x[rows], t[rows], condition.of(rows), head=head) for rows in parts])
        output: Tensor = self.network(
            self._prepared(x),
            _padded(t.to(self.device), like=x),
            condition.to(self.device).each(lambda part: _padded(part, like=x)),
            head=head,
        )
        return output[: len(x)].float()

    @torch.inference_mode()
    def prepared(self, condition: Condition) -> Condition:
        """The condition of a batch of images, prepared for many calls: work common to all of them is done once."""
        condition = condition.to(self.device)
        if condition.mask is None and condition.words is None and condition.modality is None:
            return condition
        rows = len(condition)
        missing = -rows % ROWS if self.device.type == "cpu" else 0
        return self.network.prepared(condition.each(lambda part: _extended(part, missing))).each(lambda p: p[:rows])


class Denoiser(TrainedUNet[DenoiserFacts]):
    """The network of `generate`: sees x (B, c, h, w) under a condition."""

    kind = "denoiser"


class Interpolator(TrainedUNet[InterpolatorFacts]):
    """The network of `interpolate`: sees x (B, C, N, h, w), for slices whose scales are the vector (B, 3)."""

    kind = "interpolator"


class NormalizerNetwork(TrainedUNet[NormalizerFacts]):
    """The network of `normalize`: sees x (B, c, h, w), with the head "diffusion" or "flow"."""

    kind = "normalizer"


def check_pair(model: Denoiser | NormalizerNetwork, vae: FrozenVAE | None) -> None:
    """Raise unless a model's latents are those of the VAE: UsageError for a VAE too many or missing, else DataError."""
    if model.facts.space == "image":
        if vae is not None:
            raise UsageError("the model works on images, not latents; leave out --vae")
        return
    if vae is None:
        raise UsageError("the model works on latents; give the VAE that decodes them with --vae")
    vae.check_made(model.facts, str(model.model.path))


def _padded(values: Tensor, like: Tensor) -> Tensor:
    """Rows (B, ...); on the CPU and for images `like`, the last row is repeated up to a multiple of ROWS.

    Not where a gradient flows: there nothing depends on single bits, and extra rows cost time twice.
    """
    needed = values.device.type == "cpu" and like.ndim == 4 and not like.requires_grad
    return _extended(values, -len(values) % ROWS if needed else 0)


def _extended(values: Tensor, missing: int) -> Tensor:
    """Rows (B, ...) with the last one repeated `missing` times."""
    return torch.cat([values, values[-1:].expand(missing, *values.shape[1:])]) if missing else values
