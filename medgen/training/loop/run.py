"""What every training command does around the loop: open, identify, resume, train, write, tidy up."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import msgspec
import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from medgen import __version__
from medgen.artifacts.model_file import Model, save_model
from medgen.artifacts.outputs.whole import check_output
from medgen.artifacts.provenance import Identified, Provenance, all_digests, derive
from medgen.artifacts.sets import open_set
from medgen.artifacts.sharding import part_told
from medgen.artifacts.stored import StoredSet
from medgen.config import Options, plain
from medgen.errors import DataError, UsageError
from medgen.models.facts import Facts
from medgen.models.opening import open_vae
from medgen.models.precision import Choice, choose
from medgen.models.text.prompts import Prompts
from medgen.models.trained import FrozenVAE
from medgen.nets.compute import machine
from medgen.nets.options import Precision
from medgen.prompts.variation import Variation
from medgen.reporting import Reporter, Silent
from medgen.training.data.slices import BatchSource, Slices, has_split, taken_part
from medgen.training.data.step import mix
from medgen.training.loop.continuation import Wish, continuation
from medgen.training.loop.distributed import World, world
from medgen.training.loop.learner import Learner
from medgen.training.loop.log import Log
from medgen.training.loop.loop import Loop
from medgen.training.loop.options import OfSlices, TrainingOptions, decisive
from medgen.training.loop.pictures import Pictures, pictures_path
from medgen.training.loop.resume import Identity, ResumeFile, State, resume_path

PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)
"""In the order of their numbers, which processes tell each other."""
SourceT = TypeVar("SourceT", bound=BatchSource)


@dataclass(frozen=True)
class Run:
    """One training run as requested: what it reads and writes, and where."""

    command: str
    source: str
    output: Path
    device: torch.device
    reporter: Reporter
    log: Path | None = None
    tensorboard: Path | None = None
    force: bool = False
    fresh: bool = False
    """Start over even if there is a saved state to resume."""
    wish: Wish = dataclasses.field(default_factory=Wish)
    """What to change when resuming from a saved state."""


@dataclass(frozen=True)
class BatchSources(Generic[SourceT]):
    """Where batches come from, for training and (None: not at all) for validation."""

    train: SourceT
    validation: SourceT | None


@dataclass(frozen=True)
class Training:
    """An open set, among the processes that train on it together."""

    run: Run
    stored: StoredSet
    world: World
    device: torch.device
    reporter: Reporter

    def latents_or_images(self) -> tuple[Literal["latent", "image"], tuple[int, ...], np.dtype[Any]]:
        """What the set holds, with the shape (C, H, W) and type of its slices; DataError for a set of another kind."""
        kind = self.stored.header.kind
        if kind not in ("latent", "image"):
            raise DataError(f"{self.run.source}: is a set of kind '{kind}'; train-diffusion needs latents or images")
        return kind, *self.stored.arrays()[kind]

    def slices(
        self,
        options: OfSlices,
        *,
        masks: bool = False,
        prompts: Prompts | None = None,
        variation: Variation | None = None,
    ) -> BatchSources[Slices]:
        """The set's single slices: those of its training split, and of its validation split if it has one.

        `prompts` reads their texts, which `variation` varies in training.
        """

        def of(split: str, variation: Variation | None) -> Slices:
            stored, seed, balance = self.stored, options.seed, options.balance
            return Slices(stored, split, seed, balance, masks=masks, prompts=prompts, variation=variation)

        return BatchSources(of("train", variation), of("val", None) if self.validated() else None)

    def validated(self) -> bool:
        """Whether there is a split to validate on; a warning if not."""
        if not has_split(self.stored, "val"):
            self.reporter.warn("the set has no 'val' split, so nothing is validated")
            return False
        return True

    def load_vae(self, path: Path, options: TrainingOptions) -> FrozenVAE:
        """The frozen VAE that a learner uses, at the same precision in all processes and after resuming."""
        asked = self._kept("vae_precision", options) or options.loop.precision
        vae = FrozenVAE.load(self._open_vae(path), self.device, asked, tuned=False)  # a resumed run computes as before
        agreed = self._agreed(vae.precision, "the VAE")
        return vae if agreed == vae.precision else FrozenVAE.load(self._open_vae(path), self.device, agreed.name)

    def _open_vae(self, path: Path) -> Model:
        """The VAE at `path`, in the variant for the images or latents of the set."""
        image = self.stored.arrays().get("image")
        return open_vae(path, channels=image[0][0] if image else 0, digest=self.stored.header.vae_digest)

    def fit(
        self,
        learner: Learner,
        options: TrainingOptions,
        sources: BatchSources[Any],
        others: Sequence[Identified] = (),
        vae: FrozenVAE | None = None,
    ) -> Fitted:
        """Run the loop to its end, from this training's saved state if there is one.

        `others` are inputs besides the set, such as initial weights; `vae` is the VAE that the learner uses.
        """
        run = self.run
        inputs: list[Identified] = [self.stored, *([vae.model] if vae else []), *others]
        asked = self._kept("precision", options) or options.loop.precision
        precision = self._agreed(choose(asked, learner.model.config, self.device, training=True), "the network")
        precisions = {"precision": precision.name} | ({"vae_precision": vae.precision.name} if vae else {})
        config = decisive(options, precisions, self.world.size)
        identity = Identity(__version__, run.command, options.seed, config, all_digests(inputs))
        resume = ResumeFile(run.output, identity, machine(self.device))
        run.wish.check(self.world.size, fresh=run.fresh)
        if run.fresh and self.world.first:
            resume.remove()
        self.world.wait()
        going = continuation(resume, run.wish, type(options))
        self._check_alike(identity, going.progress.step)
        begun = derive(run.command, going.config, seed=options.seed, inputs=inputs)
        recorded = going.recorded | taken_part(self.stored)
        provenance = derive(run.command, recorded, seed=options.seed, inputs=inputs)
        resume = dataclasses.replace(resume, earlier=going.earlier, log=going.log or begun.id)
        steps = going.steps(options.loop.steps)
        if going.progress.step:
            self.reporter.say(going.told(options.loop.steps))
            self._warn_of(State.open(resume.path), resume.machine)
        files = (run.log, run.tensorboard) if self.world.first else (None, None)
        log = Log(*files, run=resume.log, start=going.progress.step, force=run.force)
        loop = Loop(
            learner=learner,
            source=sources.train,
            validation=sources.validation,
            options=replace(options.loop, steps=steps),
            seed=options.seed,
            device=self.device,
            dtype=precision.dtype,
            resume=resume,
            log=log,
            reporter=self.reporter,
            world=self.world,
            pictures=Pictures(pictures_path(run.output)),
        )
        with contextlib.closing(log):
            loop.run(going.progress)
            figures = loop.validate()
            log.write(steps, figures)
        if left_out := len(loop.watch.left_out):
            figures["steps_left_out"] = left_out
        return Fitted(loop, figures, resume, provenance, inputs)

    def _warn_of(self, state: State, here: str) -> None:
        """Tell the user what matters about the state being resumed."""
        if not state.checked:
            self.reporter.warn("the saved state has no checksums (medgen 0.1 wrote it), so damage goes unnoticed")
        if state.record.machine not in ("", here):
            self.reporter.warn(
                f"the training began on {state.record.machine} and continues on {here}: its weights will be as good as "
                "those of an uninterrupted training, but not the same to the bit"
            )

    def _check_alike(self, identity: Identity, step: int) -> None:
        """UsageError unless all processes train the same thing, from the same saved state if there is one."""
        if len(set(self.world.all(mix(msgspec.json.encode(identity, order="sorted"))))) > 1:
            raise UsageError("the processes differ in version, options or inputs; give the same to each of them")
        if len(set(steps := self.world.all(step))) > 1:
            told = ", ".join(map(str, steps))
            raise UsageError(
                f"the processes see saved states after different steps ({told}); name an output in a folder that "
                "all of them share"
            )

    def _kept(self, name: str, options: TrainingOptions) -> Precision | None:
        """What "auto" chose before the training was stopped; None if nothing is resumed or the setting has changed."""
        path = resume_path(self.run.output)
        if options.loop.precision != "auto" or self.run.fresh or not path.exists():
            return None
        kept: Precision | None = State.open(path).record.identity.config.get("loop", {}).get(name)
        return kept

    def _agreed(self, choice: Choice, network: str) -> Choice:
        """The choice of the first process, which all processes adopt."""
        first, *others = (PRECISIONS[number] for number in self.world.all(PRECISIONS.index(choice.dtype)))
        agreed = choice if choice.dtype == first else Choice(first, "as in the first process")
        if unlike := [str(rank) for rank, other in enumerate(others, start=1) if other != first]:
            self.reporter.warn(
                f"{network} runs in {agreed.name}, which is faster in the first process, but not in process "
                f"{', '.join(unlike)}; settle it with --set loop.precision=NAME"
            )
        self.reporter.detail(f"{network} runs in {agreed}")
        return agreed

    def save(
        self,
        fitted: Fitted,
        kind: str,
        network: Options,
        facts: Facts,
        figures: dict[str, float],
        part: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict,
    ) -> None:
        """Write the model, then remove the resume state; the figures go into the facts and the report.

        `part`: picks the weights that are written, and may name them anew.
        """
        if self.world.first:
            weights, average = fitted.loop.weights()
            save_model(
                self.run.output,
                kind=kind,
                config=plain(network),
                weights=part(weights),
                ema=average and part(average),
                facts={**msgspec.to_builtins(facts), **figures},
                provenance=fitted.provenance,
                inputs=fitted.inputs,
                force=self.run.force,
            )
            fitted.resume.remove()
            self.reporter.report.update(figures)
            told = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
            self.reporter.say(f"wrote {self.run.output} ({told})" if told else f"wrote {self.run.output}")
        self.world.wait()


@dataclass(frozen=True)
class Fitted:
    """A finished training whose output is not yet written."""

    loop: Loop
    figures: dict[str, float]
    """Validation figures of the final weights; empty without a val split."""
    resume: ResumeFile
    provenance: Provenance
    inputs: list[Identified]


@contextlib.contextmanager
def start(run: Run, options: TrainingOptions) -> Iterator[Training]:
    """Join the other processes if there are any, check the output, open the set."""
    with world(run.device) as (here, device):
        check_output(run.output, force=run.force)
        if run.source == "-" and here.size > 1:
            raise UsageError("several processes cannot share standard input; write the set to a file first")
        reporter: Reporter = run.reporter if here.first else Silent()
        with open_set(run.source, random_access=True) as stored:
            if part := part_told(stored.header):
                reporter.warn(f"{run.source}: {part}")
            trained = [row for row in stored.cases if row.split == "train"]
            if made := sum(bool(row.synthetic) for row in trained):
                reporter.warn(f"{made} of the {len(trained)} cases of the training split are synthetic")
            yield Training(run, stored, here, device, reporter)
