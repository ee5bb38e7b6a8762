"""Teeth, implants and dental work, painted into a picture."""

from __future__ import annotations

import numpy as np

from medgen.phantoms.dental.teeth import Tooth, ToothMaps, maps_of, shares_of
from medgen.phantoms.dental.view import Attenuations
from medgen.phantoms.primitives import Floats, Window, coverage, superellipse

DENTINE = 0.62
ENAMEL = 0.42  # more than dentine
LIGAMENT = 0.30  # mm, the dark line around a root


def paint_tooth(picture: Attenuations, tooth: Tooth) -> None:
    """One tooth or implant with its surroundings."""
    window = tooth.window(picture.x, picture.y)
    x, y = picture.x[window], picture.y[window]
    if not x.size:
        return
    if tooth.screw:
        _implant(picture, window, tooth, *tooth.own(x, y))
        return
    maps = maps_of(tooth, x, y)
    soft = picture.softness
    whole, enamel, pulp = shares_of(maps, tooth, soft)
    bone = picture.bone[window]
    rooted = np.clip((maps.t - tooth.crown - 0.8) / 1.2, 0.0, 1.0) * np.clip(bone / 0.25, 0.0, 1.0)
    gap = coverage(np.abs(maps.whole - np.float32(0.5 * LIGAMENT)) - np.float32(0.5 * LIGAMENT), soft)
    lamina = coverage(np.abs(maps.whole - np.float32(LIGAMENT + 0.3)) - np.float32(0.28), soft)
    bone += rooted * (0.13 * lamina - 0.42 * gap * bone)
    bone *= 1.0 - 0.45 * whole
    depth = np.sqrt(np.clip(-maps.whole / np.float32(0.28 * tooth.width), 0.0, 1.0))
    dentine = DENTINE * (0.72 + 0.28 * depth) + 0.12 * np.clip((tooth.crown - maps.t) / tooth.crown, 0.0, 1.0)
    hard = whole * dentine + ENAMEL * enamel * (1.0 - 0.35 * np.clip(maps.t / tooth.crown, 0.0, 1.0) ** 2)
    hard -= 0.30 * pulp * whole * (1.0 - enamel)
    picture.hard[window] = np.maximum(picture.hard[window], hard) + 0.28 * np.minimum(picture.hard[window], hard)
    for repair in tooth.repairs:
        _REPAIRS[repair](picture, window, tooth, maps, whole)


def _amalgam(picture: Attenuations, window: Window, tooth: Tooth, maps: ToothMaps, whole: Floats) -> None:
    picture.metal[window] += 2.4 * _filling(picture, tooth, maps) * whole


def _composite(picture: Attenuations, window: Window, tooth: Tooth, maps: ToothMaps, whole: Floats) -> None:
    picture.metal[window] += (0.25 + 0.3 * tooth.build) * _filling(picture, tooth, maps) * whole


def _filling(picture: Attenuations, tooth: Tooth, maps: ToothMaps) -> Floats:
    """Where the filling is (h, w): in the biting surface, down one side, or in a front tooth's side."""
    half, height, chance = 0.5 * tooth.width, tooth.crown, tooth.build
    side = -1.0 if chance < 0.5 else 1.0
    share = (2.0 * chance) % 1.0
    if tooth.kind in ("incisor", "canine"):
        return coverage(superellipse(maps.s - side * 0.75 * half, maps.t - 0.55 * height, 1.6, 2.0), 0.5)
    floor = (0.34 + 0.12 * share) * height + 0.4 * np.sin(3.0 * maps.s + 7.0 * chance)
    pit = np.maximum(np.abs(maps.s) - (0.45 + 0.3 * share) * half, maps.t - floor)
    if share > 0.4:  # reaches down between two teeth
        box = np.maximum(np.abs(maps.s - side * 0.78 * half) - 0.32 * half, maps.t - 0.78 * height)
        pit = np.minimum(pit, box)
    return coverage(pit, max(picture.softness, 0.4))


def _crown(picture: Attenuations, window: Window, tooth: Tooth, maps: ToothMaps, whole: Floats) -> None:
    """Metal blocks everything, ceramic on metal shows a core, full ceramic is a little denser than enamel."""
    cap = coverage(maps.crown - np.float32(0.15), picture.softness)
    cap *= np.clip((0.97 * tooth.crown - maps.t) / 0.7, 0.0, 1.0)
    if tooth.build < 0.4:
        picture.metal[window] += 2.6 * cap
    elif tooth.build < 0.75:
        core = coverage(maps.crown + np.float32(0.9), picture.softness)
        picture.metal[window] += cap * (0.55 + 1.7 * core)
    else:
        picture.metal[window] += 0.75 * cap


def _root_canal(picture: Attenuations, window: Window, tooth: Tooth, maps: ToothMaps, whole: Floats) -> None:
    """Filled canals, and sometimes a post."""
    filled = coverage(maps.canals, max(picture.softness, 0.35))
    picture.metal[window] += (0.75 + 0.3 * tooth.build) * filled * whole
    if tooth.build > 0.6:
        post = np.maximum(np.abs(maps.s - tooth.roots[0].start) - 0.6, np.abs(maps.t - tooth.crown) - 5.0)
        picture.metal[window] += 1.6 * coverage(post, picture.softness) * whole


def _implant(picture: Attenuations, window: Window, tooth: Tooth, s: Floats, t: Floats) -> None:
    """A titanium screw with a crown on it."""
    radius = 1.9 + 0.5 * tooth.build
    neck, tip = tooth.crown + 0.5, tooth.crown + 9.0 + 3.0 * tooth.build
    taper = radius * (1.0 - 0.22 * np.clip((t - neck) / (tip - neck), 0.0, 1.0))
    thread = 0.22 * np.abs(((t / 0.9) % 1.0) * 2.0 - 1.0) * (t > neck + 1.0)
    body = np.maximum(np.abs(s) - taper + thread, np.maximum(neck - t, t - tip)).astype(np.float32)
    post = np.maximum(np.abs(s) - 0.62 * radius, np.maximum(0.35 * tooth.crown - t, t - neck - 0.2)).astype(np.float32)
    picture.metal[window] += 2.1 * coverage(np.minimum(body, post), picture.softness)
    half = 0.47 * tooth.width
    cap = superellipse(s, t - 0.5 * tooth.crown, half, 0.52 * tooth.crown, 3.2)
    picture.metal[window] += (0.8 + 1.2 * (tooth.build > 0.5)) * coverage(cap.astype(np.float32), picture.softness)


_REPAIRS = {"amalgam": _amalgam, "composite": _composite, "crown": _crown, "root-canal": _root_canal}
