"""What a metric declares: its name, needs and options. Cheap to import: `medgen evaluate --help` is built from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from medgen.config import Options
from medgen.errors import UsageError

if TYPE_CHECKING:
    from medgen.evaluation.inputs import Inputs
    from medgen.evaluation.section import Section


@dataclass(frozen=True)
class Need:
    """An input that a metric requires."""

    given: Callable[[Inputs], bool]
    remedy: str
    """What is needed and how to give it, worded to follow the metric's name."""


@dataclass(frozen=True)
class Metric:
    """One kind of measurement, in the folder of its name: `metric.py` there holds `measure(inputs[, options])`."""

    name: str
    about: str
    """What it answers and from which inputs, for the command's help."""
    needs: tuple[Need, ...]
    """In the order in which they are checked."""
    reads: tuple[str, ...]
    """Names of the inputs, besides the set, that it can use."""
    options: type[Options] | None = None
    files: tuple[str, ...] = ()
    """Those of its options that name a file."""
    unasked: Callable[[Inputs], bool] = lambda inputs: True
    """Whether it is measured by default, without `--metrics`, if its needs are given."""
    alone: bool = False
    """Whether nothing else is then measured by default."""
    either: bool = False
    """Whether it uses only the first of the inputs in `reads` that is given."""

    def used(self, inputs: Inputs) -> tuple[str, ...]:
        """Names of the inputs that are given and that it uses."""
        given = tuple(name for name in self.reads if getattr(inputs, name) is not None)
        return given[:1] if self.either else given

    def lacking(self, inputs: Inputs) -> str:
        """The first need that is not given, with the remedy; "" if all are."""
        return next((need.remedy for need in self.needs if not need.given(inputs)), "")

    def check(self, inputs: Inputs) -> None:
        """UsageError with the remedy for the first need that is not given."""
        if lacking := self.lacking(inputs):
            raise UsageError(f"{self.name} {lacking}")

    def measure(self, inputs: Inputs, options: Options | None) -> Section:
        """Take the measurement; `options` are of its own type, None if it has none."""
        self.check(inputs)
        measure = import_module(f"medgen.evaluation.{self.name}.metric").measure
        section: Section = measure(inputs) if options is None else measure(inputs, options)
        return section
