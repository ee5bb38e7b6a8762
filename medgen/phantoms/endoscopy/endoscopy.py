"""`phantom endoscopy`: frames of colonoscopies with masks of polyps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import ndimage

from medgen.phantoms import pictures
from medgen.phantoms.captions import Caption, size_word
from medgen.phantoms.endoscopy.colon import FAR, NEAR, Fold, Wall, texture
from medgen.phantoms.endoscopy.polyps import SIZES, TUBE, Hanging, Polyp
from medgen.phantoms.options import EndoscopyOptions
from medgen.phantoms.pictures import NORMAL, LabelledPicture, Rows, ShownFinding, tint
from medgen.phantoms.primitives import Floats, Grid, coverage

TABLES, FOLDERS = pictures.TABLES, pictures.FOLDERS
CLASSES = ("background", "polyp")
LEAST_AREA = 0.01  # share of the frame that a polyp takes at least; one that hides behind a fold is moved
TRIES = 5


@dataclass(frozen=True)
class Colon:
    """One patient: colours and polyps."""

    mucosa: Floats  # (3,)
    vessels: float  # how plainly they are seen
    wet: float
    residue: float
    polyps: tuple[Polyp, ...]

    @staticmethod
    def draw(rng: np.random.Generator, kinds: tuple[str, ...]) -> Colon:
        """A random one with one polyp or two."""
        mucosa = np.array([0.96, rng.uniform(0.43, 0.56), 0.0]) * rng.uniform(0.92, 1.05)
        mucosa[2] = mucosa[1] * rng.uniform(0.48, 0.76)
        count = 1 + int(rng.random() < 0.25)
        return Colon(
            mucosa.astype(np.float32),
            vessels=rng.uniform(0.0, 1.0),
            wet=rng.uniform(0.3, 1.0),
            residue=rng.uniform(0.0, 1.0) if rng.random() < 0.4 else 0.0,
            polyps=tuple(Polyp.draw(rng, str(rng.choice(kinds))) for _ in range(count)),
        )


@dataclass(frozen=True)
class Stand:
    """Where the endoscope stands in one frame, and its optics."""

    lumen: tuple[float, float]  # where the way ahead is seen, in half widths of the frame
    folds: list[Fold]
    exposure: float
    blur: float  # relative to the frame's width
    smear: float  # by motion
    noise: float
    balance: tuple[float, float, float]
    corner: tuple[float, float, float]  # the frame's half width and height, and where its corners are cut
    seed: int

    @staticmethod
    def draw(rng: np.random.Generator) -> Stand:
        """Mostly along the colon, sometimes close to its wall."""
        close = rng.random() < 0.3
        away, towards = rng.uniform(0.7, 1.3) if close else abs(rng.normal(0.0, 0.32)), rng.uniform(0.0, 2.0 * np.pi)
        folds, depth = [], rng.uniform(0.5, 1.0)
        while depth < FAR:
            first = rng.uniform(0.0, 2.0 * np.pi)
            for part in range(3):  # a ring of up to three parts, as the three bands of muscle draw it together
                if rng.random() < 0.85:
                    at = depth * rng.normal(1.0, 0.06)
                    height, thick = rng.uniform(0.10, 0.30), at**0.5 * rng.uniform(0.06, 0.13)
                    angle = first + 2.1 * part + rng.normal(0.0, 0.2)
                    folds.append(Fold(at, height, thick, angle, rng.uniform(0.7, 1.4), rng.normal(0.0, 0.12)))
            depth += rng.uniform(0.30, 0.75) * depth**0.45
        return Stand(
            (float(away * np.cos(towards)), float(away * np.sin(towards))),
            folds,
            exposure=rng.uniform(0.9, 1.4),
            blur=rng.uniform(0.001, 0.004),
            smear=rng.uniform(0.005, 0.02) if rng.random() < 0.2 else 0.0,
            noise=rng.uniform(0.004, 0.016),
            balance=(1.0, rng.normal(1.0, 0.03), rng.normal(1.0, 0.05)),
            corner=(rng.uniform(0.88, 0.98), rng.uniform(0.9, 0.99), rng.uniform(1.35, 1.7)),
            seed=int(rng.integers(1 << 31)),
        )

    def sight(self, size: int) -> tuple[Floats, Floats, Floats, Floats]:
        """Places u, v in the frame, and angle and slope of the line of sight at each, (size, size)."""
        places = ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)
        u, v = np.meshgrid(places, places)
        x, y = u - np.float32(self.lumen[0]), v - np.float32(self.lumen[1])
        away = np.hypot(x, y)
        return u, v, np.arctan2(y, x), 1.1 * away * (1.0 + 0.3 * away * away)

    def where(self, u: float, v: float) -> tuple[float, float]:
        """Angle and depth of the bare wall at a place in the frame."""
        x, y = u - self.lumen[0], v - self.lumen[1]
        away = float(np.hypot(x, y))
        return float(np.arctan2(y, x)), float(np.clip(1.0 / (1.1 * away * (1.0 + 0.3 * away * away)), 1.6 * NEAR, 2.6))


@dataclass(frozen=True)
class Scene:
    """A wall, what hangs before it, and where each pixel looks."""

    wall: Wall
    hanging: list[Hanging]
    polyps: list[Polyp]  # those in the wall, then those on stalks
    u: Floats
    v: Floats
    row: Floats
    column: Floats

    @cached_property
    def covers(self) -> list[Floats]:
        """The share of each pixel (H, W) that each polyp takes; what hangs hides what is behind."""
        covers = [self.wall.look(cover, self.row, self.column) for cover in self.wall.covers]
        for one in self.hanging:
            whole = one.cover(self.u, self.v)
            covers = [cover * (1.0 - whole) for cover in covers] + [whole]
        return covers


def draw(options: EndoscopyOptions, index: int) -> LabelledPicture:
    """Frame number `index`; with all frames healthy, the same options give the same one without its polyps."""
    patient = index // options.frames
    colon = Colon.draw(np.random.default_rng([options.seed, patient, 0]), options.polyps)
    ill, taking, exposure = (np.random.default_rng([options.seed, index, part]) for part in range(1, 4))
    stand = Stand.draw(taking)
    size = pictures.drawn_at(options.size)
    polyps = list(colon.polyps) if ill.random() >= options.healthy_fraction else []
    frame = _frame(stand, size)
    scene = _arrange(ill, stand, polyps, frame)
    image = _light(colon, stand, scene)
    image = _expose(exposure, image, stand, frame)
    findings, labels = [], np.zeros((options.size, options.size), np.uint8)
    for polyp, cover in zip(scene.polyps, scene.covers, strict=True):
        mask = pictures.shrink(cover * frame, options.size) >= 0.5
        labels[mask] = CLASSES.index("polyp")
        if mask.any():
            findings.append(ShownFinding(polyp.kind, mask))
    label = "polyp" if findings else NORMAL
    return LabelledPicture(pictures.shrink(image, options.size), labels, tuple(findings), label, _caption(scene.polyps))


def _arrange(rng: np.random.Generator, stand: Stand, polyps: list[Polyp], frame: Floats) -> Scene:
    """A scene that shows the polyps; one that hides behind folds wherever it is put is left out."""
    in_order = sorted(polyps, key=lambda polyp: polyp.kind == "pedunculated")  # as in a scene
    placed = [(polyp, _place(rng, stand)) for polyp in in_order]
    for _ in range(TRIES):
        scene = _scene(stand, placed, len(frame))
        hidden = [float((cover * frame).mean()) < LEAST_AREA for cover in scene.covers]
        if not any(hidden):
            return scene
        tried = list(zip(placed, hidden, strict=True))
        placed = [(one[0], _place(rng, stand)) if gone else one for one, gone in tried]
    return _scene(stand, [one for one, gone in tried if not gone], len(frame))


def _place(rng: np.random.Generator, stand: Stand) -> tuple[float, float, float]:
    """Where in the frame (u, v), not far ahead in the dark, and a turn."""
    while True:
        away, towards = 0.78 * np.sqrt(rng.random()), rng.uniform(0.0, 2.0 * np.pi)
        u, v = float(away * np.cos(towards)), float(away * np.sin(towards))
        if np.hypot(u - stand.lumen[0], v - stand.lumen[1]) > 0.35:
            return u, v, rng.uniform(0.0, np.pi)


def _scene(stand: Stand, placed: list[tuple[Polyp, tuple[float, float, float]]], size: int) -> Scene:
    bumps, hanging, inside, before = [], [], [], []
    for polyp, (across, down, turn) in placed:
        angle, depth = stand.where(across, down)
        if polyp.kind != "pedunculated":
            bumps.append(polyp.bump(angle, depth, turn))
            inside.append(polyp)
            continue
        near = float(np.clip(0.8 * depth, 0.45, 1.2))
        radius = 0.5 * polyp.diameter / TUBE / near * 0.75
        lean = angle + 0.5 * (turn - 1.5)
        long = radius * (2.2 + polyp.height)
        foot = (across + long * float(np.cos(lean)), down + long * float(np.sin(lean)))
        hanging.append(Hanging(polyp, (across, down), foot, radius, 1.0 / (1.0 + near * near) ** 0.65))
        before.append(polyp)
    wall = Wall(stand.seed, stand.folds, bumps)
    sight_u, sight_v, sight_angle, slope = stand.sight(size)
    return Scene(wall, hanging, inside + before, sight_u, sight_v, *wall.seen(sight_angle, slope))


def _light(colon: Colon, stand: Stand, scene: Scene) -> Floats:
    """The light that comes back from everything, (H, W, 3)."""
    rng = np.random.default_rng([stand.seed, 1])
    wall = scene.wall
    fine, medium, broad, film = (texture(rng, scale) for scale in (1.5, 5.0, 24.0, 3.2))
    along, around = wall.slopes
    shine = _facing(wall, along + 0.16 * film + 0.10 * medium, around + 0.16 * np.roll(film, 40, axis=0))
    facing = _facing(wall, along + 0.02 * medium, around + 0.02 * fine)
    distance = np.sqrt(wall.radius**2 + wall.depth**2)
    light = (0.42 + 0.58 * np.clip(facing, 0.0, 1.0)) * distance**-1.3 * (1.0 + 0.03 * fine + 0.05 * broad)
    tone = np.multiply.outer(broad, np.array([0.01, 0.05, 0.05], np.float32))
    albedo = (colon.mucosa * (1.0 + tone)).astype(np.float32)
    veins = np.clip(1.0 - np.abs(medium + 0.6 * broad) / 0.13, 0.0, 1.0) * np.clip(broad, 0.0, 1.0)
    tint(albedo, 0.75 * colon.mucosa * (1.0, 0.7, 0.7), 0.6 * colon.vessels * veins)
    if colon.residue:
        down = np.clip(np.sin(wall.angle) + 0.3, 0.0, 1.0)
        tint(albedo, (0.80, 0.52, 0.14), np.clip(1.2 * colon.residue * down * (broad + 0.7 * medium - 0.9), 0.0, 0.6))
    for polyp, cover in zip(scene.polyps, wall.covers, strict=False):
        soft = ndimage.gaussian_filter(cover, 1.2, mode="nearest")
        tint(albedo, polyp.colour(colon.mucosa), 0.9 * soft)
        light *= 1.0 + 0.12 * polyp.roughness * soft * np.roll(fine, 60, axis=1)
    gleam = np.clip((shine - 0.988) / 0.008, 0.0, 1.0) * np.clip(colon.wet + 0.8 * broad + 0.8 * medium - 0.3, 0.0, 1.0)
    sent = albedo * light[..., None] * np.float32(stand.exposure)
    tint(sent, (2.6, 2.6, 2.4), gleam * np.clip(1.6 * distance**-1.0, 0.0, 1.0))
    image = np.stack([wall.look(channel, scene.row, scene.column) for channel in np.moveaxis(sent, 2, 0)], axis=2)
    for one in scene.hanging:
        one.paint(image, scene.u, scene.v, colon.mucosa * np.float32(stand.exposure))
    _bubbles(rng, image, scene, 2.0 / len(scene.u))
    return image


def _facing(wall: Wall, along: Floats, around: Floats) -> Floats:
    """Cosine between the surface and the light, which is where the viewer is."""
    toward = wall.radius - wall.depth * along
    facing: Floats = toward / np.sqrt((wall.radius**2 + wall.depth**2) * (1.0 + along**2 + around**2))
    return facing


def _bubbles(rng: np.random.Generator, image: Floats, scene: Scene, pixel: float) -> None:
    """Bubbles of foam: a dark rim, bright on one side, and a gleam."""
    if rng.random() < 0.6:
        return
    grid, light = Grid(len(image), pixel), 1.5 * float(image.mean())
    middle = rng.uniform(-0.7, 0.7, 2)
    for _ in range(int(rng.integers(2, 12))):
        x, y = rng.normal(middle, 0.14)
        radius = rng.uniform(0.012, 0.05)
        window = grid.window((x - 0.12, x + 0.12), (y - 0.12, y + 0.12))
        part, u, v = image[window], scene.u[window] - np.float32(x), scene.v[window] - np.float32(y)
        away = np.hypot(u, v)
        ring = np.exp(-(((away - 0.85 * radius) / (0.18 * radius + 0.5 * pixel)) ** 2))
        tint(part, (light, 0.95 * light, 0.75 * light), 0.45 * ring * (v < 0.3 * radius))
        tint(part, (0.3 * light, 0.2 * light, 0.1 * light), 0.3 * ring * (v >= 0.3 * radius))
        spot = np.hypot(u + 0.35 * radius, v + 0.4 * radius)
        tint(part, (2.4, 2.4, 2.3), coverage(spot - 0.2 * radius, 2.0 * pixel))


def _frame(stand: Stand, size: int) -> Floats:
    """1 where the picture is, 0 in its black corners and margins, (size, size)."""
    u, v, _, _ = stand.sight(size)
    wide, high, cut = stand.corner
    outside = np.maximum(np.maximum(np.abs(u) - wide, np.abs(v) - high), (np.abs(u) + np.abs(v) - cut) / np.sqrt(2.0))
    return coverage(outside.astype(np.float32), 3.0 / size)


def _expose(rng: np.random.Generator, image: Floats, stand: Stand, frame: Floats) -> Floats:
    """Light -> what the video shows: blur, vignette, saturation, noise, black corners."""
    size = len(image)
    seen: Floats = ndimage.gaussian_filter(image, (stand.blur * size, stand.blur * size, 0.0), truncate=3.0)
    if stand.smear:
        seen = ndimage.uniform_filter1d(seen, max(1, int(stand.smear * size)), axis=1)
    u, v, _, _ = stand.sight(size)
    seen *= (1.0 - 0.2 * (u * u + v * v))[..., None] * np.array(stand.balance, np.float32)
    seen = 1.12 * (1.0 - np.exp(-1.25 * np.maximum(seen, 0.0))).astype(np.float32)
    seen **= np.array([0.80, 0.88, 0.95], np.float32)
    grain = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), (0.7, 0.7, 0.0), truncate=2.0)
    seen += np.float32(2.2 * stand.noise) * grain
    shown: Floats = np.clip(seen, 0.0, 1.0) * frame[..., None] + 0.02 * (1.0 - frame[..., None])
    return shown.astype(np.float32)


def _caption(polyps: list[Polyp]) -> Caption:
    if not polyps:
        return Caption("endoscopy", "colon")
    size = size_word((polyp.diameter for polyp in polyps), SIZES)
    return Caption("endoscopy", "colon", "", "polyp", size, len(polyps))


def write_case(options: EndoscopyOptions, index: int, folder: Path) -> Rows:
    """Write frame and mask number `index` into `folder`; the rows it adds to each of `TABLES`."""
    return draw(options, index).write(index // options.frames, index, folder)
