"""Whether a policy's images show what was asked of them, as they are measured: the truth beside a selector's belief."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from medgen.errors import DataError
from medgen.evaluation.agreement.declaration import ProbeOptions
from medgen.evaluation.masks.declaration import MasksOptions
from medgen.feedback.alignment.learner import Shown
from medgen.feedback.verification.verifier import Verifier
from medgen.inference.conditions.requests import Requests
from medgen.inference.generate import Generator
from medgen.inference.generate_options import GenerateOptions
from medgen.models.trained import Denoiser, FrozenVAE
from medgen.reporting import Reporter
from medgen.training.loop.run import Training


@dataclass
class Truth:
    """Judges images of the `requests`; what it needs is learned for the first of them."""

    verifier: Verifier
    generator: Generator
    """By whose model they are drawn."""
    requests: Requests
    _refused: list[DataError] = field(default_factory=list)

    @classmethod
    def by(cls, training: Training, denoiser: Denoiser, vae: FrozenVAE | None, requests: Requests) -> Truth:
        """Measured by what is learned from the set of the training, of images that the denoiser draws."""
        generator = Generator(denoiser, vae, GenerateOptions())
        header = generator.header(denoiser.model.provenance, requests)
        segmenter, probe = MasksOptions().segmenter, ProbeOptions()
        verifier = Verifier(training.stored, header, segmenter, probe, training.reporter, training.device)
        return cls(verifier, generator, requests)

    def __call__(self, shown: Shown) -> list[bool | None]:
        """Whether each image shows what was asked; None where that cannot be judged."""
        self.verifier.told.clear()
        self._refused.clear()
        return [
            self.verifier.judged(case, lambda _, error: self._refused.append(error))
            for images, numbers in shown
            for case in self.generator.shown(
                torch.nan_to_num(images.float()), numbers, self.requests.arrays(numbers), self.requests.told(numbers)
            )
        ]

    def report(self, reporter: Reporter) -> None:
        """Tell what the measuring is worth, and what it could not judge in the images that it saw last."""
        reporter.report.update(checks=self.verifier.trust)
        for warning in self.verifier.warnings():
            reporter.warn(warning)
        if self._refused:
            total = len(self.verifier.told) + len(self._refused)
            reporter.warn(f"{len(self._refused)} of {total} images could not be verified, as {self._refused[0]}")
