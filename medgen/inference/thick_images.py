"""The thick images to interpolate: a set, or files that are preprocessed to fit the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from medgen.artifacts.sets import SetReader, open_set
from medgen.imaging.cases.options import PreprocessOptions
from medgen.imaging.image_source import fitting, is_set, open_images, refuse_for_sets
from medgen.inference.interpolate_options import InterpolateOptions
from medgen.models.facts import InterpolatorFacts
from medgen.reporting import Reporter


@contextmanager
def open_thick(
    source: str, facts: InterpolatorFacts | None, options: InterpolateOptions, reporter: Reporter
) -> Iterator[SetReader]:
    """The set at `source`, or one made of the image files there, until the end of the block.

    Files get the size of the model's slices, and the window of the options or else of the model. `facts` are the
    model's; None without one. UsageError for a set with options that only files can obey.
    """
    reading = options.reading
    if is_set(source):
        refuse_for_sets(reading)
        with open_set(source) as reader:
            yield reader
        return
    window = ",".join(map(repr, options.window)) if options.window else "auto"
    settings = PreprocessOptions.of(reading, window=window, split_name="test", min_slices=max(2, reading.min_slices))
    if facts is not None:
        settings = fitting(settings, None if options.window else facts.intensity, (0, *facts.plane))
    with open_images(source, reporter, settings) as images:
        yield images.stored
