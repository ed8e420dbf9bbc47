"""`rayface data swaps`. Heavy imports happen inside the command."""

import json
from typing import Annotated

import typer

from rayface.data.cli import tell


def swaps(
    source: Annotated[str, typer.Argument(metavar="DATA", help="a data set whose people are known")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="set to write, a folder or an address")],
    method: Annotated[str, typer.Option(help="face_swap, or blend: the classical one, which no detector trains on")] = (
        "face_swap"
    ),
    model: Annotated[str, typer.Option(help="of the method: name, name@version or a folder; else face_swap")] = "",
    pairs: Annotated[int, typer.Option(help="swaps in all; 0: one for every photo")] = 0,
    seed: Annotated[int, typer.Option(help="the same seed draws the same pairs")] = 0,
    retouch: Annotated[
        str, typer.Option(help="also real photos after these steps, which swap nobody: enhance,beautify")
    ] = "",
    retouch_share: Annotated[float, typer.Option(help="share of the real photos that each of them is run on")] = 0.25,
    quality: Annotated[int, typer.Option(help="of the JPEGs, 1-100")] = 95,
    chunk: Annotated[int, typer.Option(help="faces a shard")] = 128,
    store: Annotated[str, typer.Option(help="model store, a folder or an address such as s3://bucket/models")] = "",
    workers: Annotated[int, typer.Option(help="worker processes; 0: one a CPU (or GPU) of the cluster")] = 0,
    gpu: Annotated[bool, typer.Option("--gpu", help="one GPU a process")] = False,
) -> None:
    """Make a set of swapped and real faces to train swap detection on. The same command again resumes."""
    from rayface.swapping.run import SwapOptions, make_swaps

    steps = tuple(name.strip() for name in retouch.split(",") if name.strip())
    options = SwapOptions(method, model, pairs, seed, steps, retouch_share, quality, chunk)
    summary = make_swaps(source, out, options, store, workers or None, gpu, tell)
    print(json.dumps(summary, indent=2))
