"""The bound that stops an alignment: how much farther from real images a policy may draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from medgen.models.policy import Policy
from medgen.reporting import Reporter


@dataclass(frozen=True)
class Standing:
    """How far a policy has come, and what it costs."""

    frechet: float
    """Distance to held-out real images, in the built-in features."""
    score: float | None
    """Mean score of its images, where they are scored."""

    def told(self) -> str:
        """Both in words."""
        score = "" if self.score is None else f"mean score {self.score:.3g}, "
        return f"{score}Frechet distance {self.frechet:.4g}"

    def figures(self, when: str) -> dict[str, float]:
        """Both by name."""
        return {f"frechet_{when}": self.frechet} | ({} if self.score is None else {f"score_{when}": self.score})


class Bound:
    """Check a policy now and then, and keep the weights of the last check at which it was within the bound.

    What is checked and kept is the moving average of the weights.
    """

    def __init__(
        self,
        policy: Policy,
        measure: Callable[[], Standing],
        max_rise: float,
        every: int,
        reporter: Reporter,
        rising: int = 0,
    ) -> None:
        """Check after each `every` updates but the first `rising`, of the warm-up, after which the distance falls back.

        `measure` draws from the weights that are in place; `max_rise` is relative to the reference's distance."""
        self._policy, self._measure, self._max_rise, self._every = policy, measure, max_rise, every
        self._reporter, self._rising = reporter, rising
        self._begun: Standing | None = None
        self._last: tuple[int, Standing] | None = None

    @property
    def begun(self) -> Standing:
        """Where the reference stands."""
        if self._begun is None:
            with self._policy.reference.in_place():
                self._begun = self._measure()
            self._reporter.say(f"before: {self._begun.told()}")
        return self._begun

    def due(self, done: int) -> bool:
        """Whether to check after this many updates."""
        return done % self._every == 0 and done > self._rising

    def check(self, done: int) -> Standing:
        """Measure the policy after `done` updates."""
        begun = self.begun
        with self._policy.average.in_place():
            now = self._measure()
            broken = now.frechet > (1 + self._max_rise) * begun.frechet
            if not broken:
                self._policy.kept.follow(0)
        self._last = done, now
        self._policy.broken.fill_(broken)
        if broken:
            self._warn(done, now)
        else:
            self._policy.kept_at.fill_(done)
        return now

    def settle(self, done: int) -> dict[str, float]:
        """Give the policy the weights of the last good check, which may be those of now; figures of what it is then."""
        if self._last is None or self._last[0] != done:
            self.check(done)
        kept_at = int(self._policy.kept_at)
        self._policy.kept.restore()
        now = self._last[1] if self._last and self._last[0] == kept_at else self._measure()
        self._reporter.say(f"after {kept_at} updates: {now.told()}")
        return {**self.begun.figures("before"), **now.figures("after"), "updates": kept_at}

    def _warn(self, done: int, now: Standing) -> None:
        begun = self.begun
        rise = f"{now.frechet / begun.frechet - 1:.0%}" if begun.frechet else f"to {now.frechet:.3g}"
        told = f"after {done} updates the Frechet distance has risen by {rise}"
        if now.score is not None and begun.score is not None and now.score > begun.score:
            told += (
                f" while the mean score rose from {begun.score:.3g} to {now.score:.3g}: reward hacking, images that "
                "please the selector and look less real"
            )
        self._reporter.warn(f"{told}; it stops, and the weights after {int(self._policy.kept_at)} updates are written")
