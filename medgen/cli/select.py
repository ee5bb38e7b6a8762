"""`medgen select`: set -> the best of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import Device, Force, InputSet, KeepGoing, OutputSet, Reference
from medgen.cli.set_maker import SetMaker
from medgen.feedback.select_options import SelectOptions

if TYPE_CHECKING:
    import torch


@takes(SelectOptions)
def command(
    context: typer.Context,
    given: Given,
    source: InputSet = "-",
    selector: Annotated[
        Path | None, typer.Option("--selector", metavar="FILE", help="The selector that judges, from train-selector.")
    ] = None,
    vae: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The VAE whose latents the selector judges by.")
    ] = None,
    per: Annotated[
        tuple[str, int] | None,
        typer.Option(
            metavar="FIELD N", help="Keep the best N of each modality, text, label, or value of the named vector field."
        ),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Keep the images that show what was asked for.")] = False,
    reference: Reference = None,
    output: OutputSet = "-",
    device: Device = "auto",
    keep_going: KeepGoing = False,
    force: Force = False,
) -> None:
    """Keep the best images of a set, or those that show what was asked for.

    It is a filter for pipes, in constant memory. --min-score passes each case on at once. --keep and --per rank all
    cases, so a pipe is first stored in a temporary file. Without these, all cases are kept. Each case stores its score,
    from 1 to 5.

    With --verify, select measures what images show: position and size of nodules by a rule fitted to the nodules of
    --reference, masks by a segmenter trained on its pairs, and modality, side and finding of texts by a probe trained
    on its images and texts. A nodule passes if it is where it was asked for, within a factor 2 of its size; a mask if
    it has the Dice that 9 of 10 real pairs reach; a text if the probe sees all that it says. What the probe does not
    recognise in 4 of 5 held-out real images is not judged, and is named. --report says for each image what differs,
    and by how much. To keep the best of the images that pass, put two selects in a pipe.

    Examples:
      medgen generate model.safetensors -n 64 | medgen select --selector selector.safetensors --min-score 4 -o best.h5
      medgen select samples.h5 --verify --reference images.h5 --report verified.json -o verified.h5
      medgen select samples.h5 --verify --reference real.h5 | medgen select --selector s.safetensors --keep 0.5 -o b.h5

    """
    options = given.resolve(SelectOptions)

    from medgen.errors import UsageError
    from medgen.nets.compute import resolve_device

    ranked = options.keep is not None or per is not None
    if verify == (selector is not None):
        raise UsageError("give either --selector FILE, from train-selector, or --verify; two selects in a pipe do both")
    if verify != (reference is not None):
        raise UsageError("--verify needs --reference SET, the real images, and only --verify takes it")
    if verify and (ranked or options.min_score is not None or options.aspect):
        raise UsageError("--verify gives no scores; leave out --keep, --min-score, --per and --aspect")
    if verify and vae is not None:
        given.warn("--vae has no effect with --verify")
    if verify:
        given.warn_unused(("weak",), "with --verify")
    else:
        given.warn_unused(("segmenter", "probe"), "without --verify")
    if per is not None and (options.keep is not None or options.min_score is not None):
        raise UsageError("--per excludes --keep and --min-score; give one of them")
    if per is not None and per[1] < 1:
        raise UsageError(f"--per {per[0]} {per[1]}: keep 1 at least")
    maker = SetMaker.of(context, output, force=force, shard=None, keep_going=keep_going)
    target = resolve_device(device)
    if selector is not None:
        _by_scores(maker, source, selector, vae, per, options, target)
    elif reference is not None:
        _by_measuring(maker, source, reference, options, target)


def _by_scores(
    maker: SetMaker,
    source: str,
    selector: Path,
    vae: Path | None,
    per: tuple[str, int] | None,
    options: SelectOptions,
    device: torch.device,
) -> None:
    import contextlib

    from medgen.artifacts.provenance import Identified, derive
    from medgen.artifacts.sets import open_set
    from medgen.config import plain
    from medgen.feedback.selection import Judge, best_of_each, best_share, selected_header
    from medgen.models.selector import Selector
    from medgen.models.trained import FrozenVAE
    from medgen.nets.scorer import LOWEST

    autoencoder = None if vae is None else FrozenVAE.load(vae, device, "float32")
    chosen = Selector.load(selector, device, autoencoder, weak=options.weak)
    networks = [chosen.model, *([autoencoder.model] if autoencoder is not None else [])]
    name = "standard input" if source == "-" else source
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(maker.console.progress(None, "slices"))
        if options.keep is not None or per is not None:
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
        for name in ("segmenter", "probe", "seed"):
            del settings[name]
        header = selected_header(judge, derive("select", settings, inputs=inputs))
        unjudged = "{left_out} could not be judged"
        nothing = f"no case was kept: {unjudged}; --report FILE.json says why"
        if options.min_score is not None:
            nothing = f"no case was kept: none scores {options.min_score:g} or more ({unjudged}); lower --min-score"
        done = maker.write(cases, header, inputs, nothing=nothing)
    maker.console.say(f"kept {done.cases} of {len(judge.scores)} cases")
    maker.finish(cases=len(judge.scores), kept=done.cases, scores=judge.scores)


def _by_measuring(maker: SetMaker, source: str, reference: Path, options: SelectOptions, device: torch.device) -> None:
    import msgspec

    from medgen.artifacts.provenance import derive
    from medgen.artifacts.sets import open_set
    from medgen.config import plain
    from medgen.feedback.selection import refuse_shard
    from medgen.feedback.verification.verifier import Verifier

    with (
        open_set(source) as reader,
        open_set(reference, random_access=True) as real,
        maker.console.progress(None, "slices") as advance,
    ):
        refuse_shard(reader.header, "standard input" if source == "-" else source)
        settings = {"verify": True, "segmenter": plain(options.segmenter), "probe": plain(options.probe)}
        provenance = derive("select", settings, seed=options.seed, inputs=[reader, real])
        header = msgspec.structs.replace(reader.header, provenance=provenance)
        verifier = Verifier(real, reader.header, options.segmenter, options.probe, maker.console, device, options.seed)
        cases = verifier.passing(reader, maker.leave_out, advance)
        nothing = "no case was kept: none shows what was asked; --report FILE.json says what differs, and by how much"
        done = maker.write(cases, header, [reader, real], nothing=nothing)
    maker.console.say(f"{done.cases} of {len(verifier.told)} cases show what was asked")
    for warning in verifier.warnings():
        maker.console.warn(warning)
    maker.finish(**verifier.summary())
