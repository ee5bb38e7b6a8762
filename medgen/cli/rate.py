"""`medgen rate`: expert ratings of images, by a page in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import InputSet, console_of
from medgen.feedback.rate_options import RateOptions


@takes(RateOptions)
def command(
    context: typer.Context,
    given: Given,
    source: InputSet = "-",
    ratings: Annotated[
        Path | None,
        typer.Option("--ratings", metavar="FILE.csv", help="The file of ratings; new ones are added to it."),
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option("--real", metavar="SET", help="Mix in real images, and ask whether each image is real."),
    ] = None,
) -> None:
    """Let experts rate images in the browser.

    It prints the address of a page on this machine. Images are rated by keyboard, and each rating is on disk before the
    next image is shown. Ctrl-C ends the page; the same command continues where the rater stopped.

    With --real, real images are mixed in, each with as many slices as those to rate. The page first asks whether an
    image is real, and only then shows what was asked of it.

    Examples:
      medgen rate samples.h5 --ratings ratings.csv --rater anna
      medgen rate samples.h5 --ratings ratings.csv --rater anna --aspects realism,anatomy,agreement --real images.h5

    """
    options = given.resolve(RateOptions)

    import contextlib

    from medgen.artifacts.sets import open_set
    from medgen.errors import UsageError
    from medgen.feedback.server import RatingServer
    from medgen.feedback.session import Session
    from medgen.imaging.labels.ratings import RatingsFile

    console = console_of(context)
    if ratings is None:
        raise UsageError("give --ratings FILE.csv, the file that ratings are added to")
    if not options.rater:
        raise UsageError("give --rater NAME, so that several raters can be told apart")
    if real is not None and options.pairs:
        raise UsageError("--real and --pairs: pairs are compared, not judged for being real; leave one of them out")
    if not options.pairs:
        given.warn_unused(("comparisons",), "without --pairs")
    if real is None:
        given.warn_unused(("real_share",), "without --real")
    with contextlib.ExitStack() as stack:
        rated = stack.enter_context(open_set(source, random_access=True))
        mixed = None if real is None else stack.enter_context(open_set(real, random_access=True))
        file = stack.enter_context(RatingsFile(ratings))
        if file.repaired:
            console.warn(f"{ratings}: half a line at its end, as a crash leaves it, was removed")
        session = Session(rated, mixed, file, options)
        server = stack.enter_context(RatingServer(session, options.port))
        console.say(f"open {server.address}  (Ctrl-C ends)")
        with contextlib.suppress(KeyboardInterrupt):  # how a rater ends, and not a failure
            server.serve_forever()
        done = session.progress()["done"]
        console.say(f"{done} of {len(session.items)} rated by {options.rater}, in {ratings}")
        console.report.update(items=len(session.items), rated=done)
        if server.failure is not None:
            raise server.failure
