"""What can be asked of a phantom."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from medgen.config import Options, did_you_mean, option
from medgen.errors import ConfigError, UsageError

Positive = Annotated[float, msgspec.Meta(gt=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=20)]
Rating = Annotated[float, msgspec.Meta(ge=1, le=5)]


Lesion = Literal["caries", "periapical", "bone-loss", "fracture"]
RetinalLesion = Literal["microaneurysm", "haemorrhage", "exudate", "scar", "naevus"]
MacularLesion = Literal["druse", "cyst", "detachment"]
ThoracicLesion = Literal["nodule", "consolidation", "effusion"]
Polyp = Literal["sessile", "flat", "pedunculated"]

SEVERITY = option(
    "How large and how clear lesions are: 0 is hardly visible, 1 is obvious.", flag="--severity", metavar="LOW,HIGH"
)


def _check_range(name: str, limits: tuple[float, float]) -> None:
    low, high = limits
    if low > high:
        raise ConfigError(f"{name}: {low:g},{high:g} is not a range; give the smaller number first")


def _check_kinds(kinds: tuple[str, ...]) -> None:
    if not kinds:
        raise ConfigError("lesions: name at least one kind; for healthy cases only, set healthy_fraction to 1")


class PhantomOptions(Options, frozen=True):
    """What every kind has."""

    seed: Annotated[int, option("Seed of everything random.", ge=0)] = 0


class ChestCTOptions(PhantomOptions, frozen=True):
    """A chest CT; lengths in mm."""

    size: Annotated[int, option("Rows and columns of a slice.", metavar="PIXELS", ge=16, le=2048)] = 512
    slices: Annotated[int, option("Slices per case.", ge=1, le=2000)] = 24
    thickness: Annotated[float, option("Thickness of a slice.", metavar="MM", gt=0)] = 5.0
    spacing: (
        Annotated[float, option("Distance between slices.", metavar="MM", default="the thickness", gt=0)] | None
    ) = None
    thick: (
        Annotated[float, option("Add a second series with slices this thick, from the same scan.", metavar="MM", gt=0)]
        | None
    ) = None
    thick_spacing: Positive | None = None  # its distance from slice to slice; None: its thickness
    pitch: Positive = 1.7  # the planes that are computed and averaged lie no farther apart
    noise: Annotated[float, msgspec.Meta(ge=0)] = 1.0  # relative to the usual dose; 0: none
    nodules: Annotated[
        tuple[Count, Count], option("Fewest and most nodules in a case that is not healthy.", metavar="LOW,HIGH")
    ] = (1, 3)
    diameter: Annotated[
        tuple[Positive, Positive],
        option("Smallest and largest nodule diameter, in mm.", flag="--nodule-diameter", metavar="LOW,HIGH"),
    ] = (6.0, 30.0)
    texture: Annotated[
        tuple[Rating, Rating],
        option("Least and greatest texture: 1 is ground glass, 5 solid.", flag="--nodule-texture", metavar="LOW,HIGH"),
    ] = (1.0, 5.0)
    healthy_fraction: Annotated[
        float, option("Share of cases without nodules or lesions.", metavar="F", ge=0, le=1)
    ] = 0.2
    scout_fraction: Fraction = 0.1  # of cases whose archive also holds a localizer, a series of one image

    def __post_init__(self) -> None:
        """Ranges that contradict themselves are errors."""
        for name in ("nodules", "diameter", "texture"):
            _check_range(name, getattr(self, name))
        if self.thick is not None and self.thick < self.thickness:
            raise ConfigError(f"thick: {self.thick:g} mm is less than the thickness of the first series")
        if self.thick is not None and (self.thick_spacing or self.thick) > self.slices * self.step:
            raise ConfigError(
                f"thick: {self.slices} slices at {self.step:g} mm leave no room for a second series of "
                f"{self.thick:g} mm slices; give more slices"
            )

    @property
    def step(self) -> float:
        """From slice to slice, in mm."""
        return self.thickness if self.spacing is None else self.spacing


class DentalOptions(PhantomOptions, frozen=True):
    """A panoramic X-ray."""

    size: Annotated[int, option("Rows; a full view has twice as many columns.", metavar="PIXELS", ge=32, le=2048)] = 512
    view: Annotated[
        Literal["full", "half"], option("Both jaws from joint to joint, or one side as a square image.")
    ] = "full"
    healthy_fraction: Annotated[
        float, option("Share of cases without nodules or lesions.", metavar="F", ge=0, le=1)
    ] = 0.5
    lesions: Annotated[tuple[Lesion, ...], option("Kinds of lesions; a case has one of them.", metavar="A,B,...")] = (
        "caries",
        "periapical",
        "bone-loss",
        "fracture",
    )
    count: tuple[Count, Count] = (1, 3)  # fewest and most lesions in a case that has any
    severity: Annotated[tuple[Fraction, Fraction], SEVERITY] = (0.3, 1.0)

    def __post_init__(self) -> None:
        """Ranges that contradict themselves are errors."""
        for name in ("count", "severity"):
            _check_range(name, getattr(self, name))
        _check_kinds(self.lesions)


class PictureOptions(PhantomOptions, frozen=True):
    """A square picture."""

    size: Annotated[int, option("Rows and columns.", metavar="PIXELS", ge=32, le=1024)] = 256
    healthy_fraction: Annotated[
        float, option("Share of cases without nodules or lesions.", metavar="F", ge=0, le=1)
    ] = 0.2


class GradedOptions(PictureOptions, frozen=True):
    """A square picture of lesions that are more or less severe."""

    severity: Annotated[tuple[Fraction, Fraction], SEVERITY] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Ranges that contradict themselves are errors."""
        _check_range("severity", self.severity)


class FundusOptions(GradedOptions, frozen=True):
    """A photograph of the retina."""

    lesions: Annotated[
        tuple[RetinalLesion, ...], option("Kinds of lesions; a case has one of them.", metavar="A,B,...")
    ] = ("microaneurysm", "haemorrhage", "exudate")
    centre: Annotated[
        Literal["either", "macula", "disc"],
        option("What photographs are centred on; macula-centred ones show the side clearly."),
    ] = "either"
    frames: Annotated[int, msgspec.Meta(ge=1)] = 2  # of a patient: right and left eye in turn

    def __post_init__(self) -> None:
        """Eyes that cannot be ill are healthy by their own option."""
        super().__post_init__()
        _check_kinds(self.lesions)


class OCTOptions(GradedOptions, frozen=True):
    """A slice through the macula by optical coherence tomography."""

    lesions: Annotated[
        tuple[MacularLesion, ...], option("Kinds of lesions; a case has one of them.", metavar="A,B,...")
    ] = ("druse", "cyst", "detachment")

    def __post_init__(self) -> None:
        """Likewise."""
        super().__post_init__()
        _check_kinds(self.lesions)


class BrainMRIOptions(GradedOptions, frozen=True):
    """An axial slice through the head; of lesions it knows the tumour alone."""


class ChestXrayOptions(GradedOptions, frozen=True):
    """A chest X-ray from behind."""

    lesions: Annotated[
        tuple[ThoracicLesion, ...], option("Kinds of lesions; a case has one of them.", metavar="A,B,...")
    ] = ("nodule", "consolidation", "effusion")

    def __post_init__(self) -> None:
        """Likewise."""
        super().__post_init__()
        _check_kinds(self.lesions)


class EndoscopyOptions(PictureOptions, frozen=True):
    """A frame of a colonoscopy."""

    polyps: Annotated[tuple[Polyp, ...], option("Kinds of polyps.", metavar="A,B,...")] = (
        "sessile",
        "flat",
        "pedunculated",
    )
    frames: Annotated[int, msgspec.Meta(ge=1)] = 4  # of a patient

    def __post_init__(self) -> None:
        """Likewise."""
        _check_kinds(self.polyps)


KINDS: dict[str, type[PhantomOptions]] = {
    "chest-ct": ChestCTOptions,
    "dental": DentalOptions,
    "fundus": FundusOptions,
    "endoscopy": EndoscopyOptions,
    "chest-xray": ChestXrayOptions,
    "oct": OCTOptions,
    "brain-mri": BrainMRIOptions,
}


def options_of(kind: str) -> type[PhantomOptions]:
    """The options struct of a kind; UsageError if there is none."""
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS, f"kinds: {', '.join(KINDS)}")
        raise UsageError(f"no phantom '{kind}'{hint}")
    return KINDS[kind]
