"""`medgen select`: set -> the best of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import Device, Force, InputSet, KeepGoing, OutputSet
from medgen.cli.set_maker import SetMaker
from medgen.feedback.select_options import SelectOptions


@takes(SelectOptions)
def command(
    context: typer.Context,
    given: Given,
    source: InputSet = "-",
    selector: Annotated[
        Path | None, typer.Option("--selector", metavar="FILE", help="Who judges, from train-selector.")
    ] = None,
    vae: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The VAE by whose latents the selector judges.")
    ] = None,
    per: Annotated[
        tuple[str, int] | None,
        typer.Option(
            metavar="FIELD N", help="The best N of each modality, text, label or value of a vector field, by its name."
        ),
    ] = None,
    output: OutputSet = "-",
    device: Device = "auto",
    keep_going: KeepGoing = False,
    force: Force = False,
) -> None:
    """Keep the best images of a set, as a selector scores them.

    A filter in a pipe, in constant memory. --min-score passes each case on at once. --keep and --per rank all cases, so
    a pipe is first stored in a temporary file. Without these, all cases are kept. Each keeps its score, from 1 to 5.

    Examples:
      medgen select samples.h5 --selector selector.safetensors --keep 0.5 -o best.h5
      medgen generate model.safetensors -n 64 | medgen select --selector selector.safetensors --min-score 4 -o best.h5

    """
    options = given.resolve(SelectOptions)

    import contextlib

    from medgen.artifacts.provenance import Identified, derive
    from medgen.artifacts.sets import open_set
    from medgen.config import plain
    from medgen.errors import UsageError
    from medgen.feedback.selection import Judge, best_of_each, best_share, selected_header
    from medgen.models.selector import Selector
    from medgen.models.trained import FrozenVAE
    from medgen.nets.compute import resolve_device
    from medgen.nets.scorer import LOWEST

    if selector is None:
        raise UsageError("give --selector FILE, which medgen train-selector has written")
    if per is not None and (options.keep is not None or options.min_score is not None):
        raise UsageError("--per excludes --keep and --min-score; give one of them")
    if per is not None and per[1] < 1:
        raise UsageError(f"--per {per[0]} {per[1]}: keep 1 at least")
    maker = SetMaker.of(context, output, force=force, shard=None, keep_going=keep_going)
    target = resolve_device(device)
    autoencoder = None if vae is None else FrozenVAE.load(vae, target, "float32")
    chosen = Selector.load(selector, target, autoencoder, weak=options.weak)
    networks = [chosen.model, *([autoencoder.model] if autoencoder is not None else [])]
    name, ranked = "standard input" if source == "-" else source, options.keep is not None or per is not None
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(maker.console.progress(None, "slices"))
        if ranked:
            stored = stack.enter_context(open_set(source, random_access=True))
            judge = Judge(chosen, stored.header, name, options.aspect, maker.leave_out, advance)
            rank = best_share(options.keep or 1.0) if per is None else best_of_each(per[1])
            inputs: list[Identified] = [stored, *networks]
            cases = judge.ranked(stored, rank, per[0] if per is not None else "")
        else:
            reader = stack.enter_context(open_set(source))
            judge = Judge(chosen, reader.header, name, options.aspect, maker.leave_out, advance)
            inputs = [reader, *networks]
            cases = judge.least(reader, options.min_score or LOWEST)
        settings = plain(options) | ({"per": list(per)} if per is not None else {})
        header = selected_header(judge, derive("select", settings, inputs=inputs))
        nothing = "no case was kept: {left_out} could not be judged, and no other scores so much; lower --min-score"
        done = maker.write(cases, header, inputs, nothing=nothing)
    maker.console.say(f"kept {done.cases} of {len(judge.scores)} cases")
    maker.finish(cases=len(judge.scores), kept=done.cases, scores=judge.scores)
