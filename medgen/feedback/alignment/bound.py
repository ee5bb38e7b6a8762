"""The bound that stops an alignment: how much farther from real images a policy may draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medgen.models.policy import Policy
from medgen.reporting import Reporter

CHANCE = 0.025
"""Of a false alarm that fewer images show what was asked."""


@dataclass(frozen=True)
class Standing:
    """How far a policy has come, and what it costs."""

    frechet: float
    """Distance to held-out real images, in the built-in features, of images of what those show."""
    score: float | None
    """Mean score of its images, where they are scored."""
    frechet_asked: float | None = None
    """Distance of the images that are scored, where they show something else."""
    shows: Sequence[bool | None] = ()
    """Whether each of the images that are scored shows what was asked, where that is verified; None: not judged."""

    @property
    def verified(self) -> float | None:
        """The share of them that do."""
        judged = [shows for shows in self.shows if shows is not None]
        return sum(judged) / len(judged) if judged else None

    def told(self) -> str:
        """All of it in words."""
        score = "" if self.score is None else f"mean score {self.score:.3g}, "
        verified = "" if self.verified is None else f"{self.verified:.0%} show what was asked, "
        asked = "" if self.frechet_asked is None else f" ({self.frechet_asked:.4g} for the conditions asked)"
        return f"{score}{verified}Frechet distance {self.frechet:.4g}{asked}"

    def figures(self, when: str) -> dict[str, float]:
        """All of it by name."""
        every = {
            "frechet": self.frechet,
            "frechet_asked": self.frechet_asked,
            "score": self.score,
            "verified": self.verified,
        }
        return {f"{name}_{when}": value for name, value in every.items() if value is not None}

    def rose(self, now: Standing) -> str:
        """In words, from which mean score to which it has risen; empty if it has not."""
        if self.score is None or now.score is None or now.score <= self.score:
            return ""
        return f"the mean score rose from {self.score:.3g} to {now.score:.3g}"


def fewer(before: Sequence[bool | None], now: Sequence[bool | None]) -> bool:
    """Whether fewer of the same requests are shown now, by more than chance.

    That is McNemar's test (1947), exact: of the images that changed, so many were lost as would be in 1 of 40 cases at
    most if gains and losses were equally likely. Both sequences are in the order of the requests.
    """
    lost = sum(one is True and other is False for one, other in zip(before, now, strict=True))
    changed = lost + sum(one is False and other is True for one, other in zip(before, now, strict=True))
    as_many = sum(math.comb(changed, count) for count in range(lost, changed + 1))
    return as_many / (1 << changed) <= CHANCE


class Bound:
    """Check a policy now and then, and keep the weights of the last check at which it was within the bound.

    What is checked and kept is the moving average of the weights. One check beyond the bound may be a passing state, so
    that the second in a row ends the alignment.
    """

    def __init__(
        self,
        policy: Policy,
        measure: Callable[[], Standing],
        max_rise: float,
        every: int,
        reporter: Reporter,
        rising: int = 0,
        first: float | None = None,
    ) -> None:
        """Check after each `every` updates but the first `rising`, of the warm-up, after which the distance falls back.

        `measure` draws from the weights that are in place. `max_rise` is relative to the distance `first`, which the
        model had before it was ever aligned; None: to that of the reference.
        """
        self._policy, self._measure, self._max_rise, self._every = policy, measure, max_rise, every
        self._reporter, self._rising = reporter, rising
        self._first = first
        self._begun: Standing | None = None
        self._last: tuple[int, Standing] | None = None

    @property
    def begun(self) -> Standing:
        """Where the reference stands."""
        if self._begun is None:
            with self._policy.reference.in_place():
                self._begun = self._measure()
            self._reporter.say(f"before: {self._begun.told()}")
            if self._first is not None:
                self._reporter.say(f"the bound counts from {self._first:.4g}, the distance before the first alignment")
        return self._begun

    @property
    def first(self) -> float:
        """The distance that the bound is relative to."""
        begun = self.begun.frechet
        return begun if self._first is None else self._first

    def due(self, done: int) -> bool:
        """Whether to check after this many updates."""
        return done % self._every == 0 and done > self._rising

    def check(self, done: int) -> Standing:
        """Measure the policy after `done` updates; it is broken where the check before was beyond the bound, too."""
        first = self.first
        with self._policy.average.in_place():
            now = self._measure()
            beyond = not now.frechet <= (1 + self._max_rise) * first  # so is one that is not a number
            if not beyond:
                self._policy.kept.follow(0)
                self._policy.kept_at.fill_(done)
        self._last, previous = (done, now), done - self._every
        self._policy.broken.fill_(beyond and self.due(previous) and int(self._policy.kept_at) < previous)
        return now

    def settle(self, done: int) -> dict[str, float]:
        """Give the policy the weights of the last good check, which may be those of now; figures of what it is then."""
        if self._last is None or self._last[0] != done:
            self.check(done)
        kept_at = int(self._policy.kept_at)
        if self._last and kept_at < done:
            self._warn(done, self._last[1])
        self._policy.kept.restore()
        now = self._last[1] if self._last and self._last[0] == kept_at else self._measure()
        self._reporter.say(f"after {kept_at} updates: {now.told()}")
        self._warn_of_asked(now)
        self._warn_of_truth(now)
        figures = {**self.begun.figures("before"), **now.figures("after")}
        return {**figures, "frechet_first": self.first, "updates": kept_at}

    def _warn(self, done: int, now: Standing) -> None:
        rise = f"{now.frechet / self.first - 1:.0%}" if self.first else f"to {now.frechet:.3g}"
        told = f"after {done} updates the Frechet distance has risen by {rise}"
        if self._first is not None:
            told += " since the first alignment"
        if rose := self.begun.rose(now):
            told += (
                f" while {rose}: the images please the selector more and look less real, which may be reward hacking"
            )
        self._reporter.warn(f"{told}; the weights after {int(self._policy.kept_at)} updates are written")

    def _warn_of_truth(self, now: Standing) -> None:
        """Say where fewer images show what was asked, which does not stop the policy."""
        begun = self.begun
        if begun.verified is None or now.verified is None or not fewer(begun.shows, now.shows):
            return
        told = f"fewer images show what was asked, {now.verified:.0%} after {begun.verified:.0%}"
        if rose := begun.rose(now):
            told += (
                f", while {rose}: this is reward hacking (belief up, truth down); have images of this model rated, "
                "and train the selector on them, too"
            )
        self._reporter.warn(told)

    def _warn_of_asked(self, now: Standing) -> None:
        """Say where images of the conditions asked have moved away from real ones, which does not stop the policy.

        Those show other things than the real ones do, and the better they show it, the farther from these they are.
        """
        before, after = self.begun.frechet_asked, now.frechet_asked
        if before is not None and after is not None and after > (1 + self._max_rise) * before:
            self._reporter.warn(
                f"images of the conditions asked are farther from the real ones, from {before:.4g} to {after:.4g}: "
                "they may show more clearly what was asked, or look less real; look at some of them"
            )
