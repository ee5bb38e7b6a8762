"""Whether a policy's images show what was asked of them, as they are measured: the truth beside a selector's belief."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

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
        return [verdict for batch in shown for verdict in self._verdicts(*batch)]

    def _verdicts(self, images: Tensor, numbers: Sequence[int]) -> Iterator[bool | None]:
        finite = images.isfinite().flatten(1).all(1).tolist()  # stored values cannot be NaN, so these would be lost
        asked, texts = self.requests.arrays(numbers), self.requests.told(numbers)
        cases = self.generator.shown(torch.nan_to_num(images.float()), numbers, asked, texts)
        for case, is_finite in zip(cases, finite, strict=True):
            if is_finite:
                yield self.verifier.judged(case, lambda _, error: self._refused.append(error))
            else:
                self._refused.append(DataError(f"case {case.id}: the image holds NaN or infinity"))
                yield None

    def report(self, reporter: Reporter) -> None:
        """Tell what the measuring is worth, and what it could not judge in the images that it saw last."""
        reporter.report.update(checks=self.verifier.trust)
        for warning in self.verifier.warnings():
            reporter.warn(warning)
        if self._refused:
            total = len(self.verifier.told) + len(self._refused)
            reporter.warn(f"{len(self._refused)} of {total} images could not be verified, as {self._refused[0]}")
