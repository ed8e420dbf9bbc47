"""`rayface data label`. Heavy imports happen inside the command."""

import json
from typing import Annotated

import typer

from rayface.data.cli import (
    Align,
    Chunk,
    CommercialUse,
    ImageFormat,
    Limit,
    MaxFaces,
    MinFace,
    Quality,
    Size,
    Terms,
    stated_terms,
    tell,
)
from rayface.errors import RayfaceError


def label(
    source: Annotated[str, typer.Argument(help="photos (a folder or an address), or a data set of `rayface data`")],
    out: Annotated[str, typer.Argument(metavar="DIR", help="data set to write, a folder or an address")],
    with_: Annotated[
        str, typer.Option("--with", help="what to label, of: attributes,masks,embeddings,sharpness")
    ] = "attributes,masks,embeddings,sharpness",
    model: Annotated[
        list[str],
        typer.Option(
            help="label=reference, for example masks=parsing@2; may be repeated. Else the store's newest; embeddings: "
            "pretrained:dlib where its package is installed"
        ),
    ] = [],  # noqa: B006  typer copies it
    store: Annotated[str, typer.Option(help="model store, a folder or an address such as s3://bucket/models")] = "",
    unsure: Annotated[
        float, typer.Option(help="attributes whose probability is nearer to 0.5 than this are unknown (0)")
    ] = 0.1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="predict also what the source has already")] = False,
    same_person: Annotated[
        float, typer.Option(help="cosine of embeddings from which on faces are of one person; 0: the recogniser's own")
    ] = 0.0,
    perhaps_same_person: Annotated[
        float, typer.Option(help="the same, from which on faces are in one split; 0: the recogniser's own")
    ] = 0.0,
    duplicates: Annotated[str, typer.Option(help="drop: keep the sharpest of near-duplicates; keep: all")] = "drop",
    min_sharpness: Annotated[float, typer.Option(help="softer faces are left out")] = 0.0,
    splits: Annotated[str, typer.Option(help="hash, keep (the source's), or auto: keep where it has its own")] = "auto",
    format: Annotated[str, typer.Option(help="of photos: folder, identity, celeba or celebamask")] = "folder",
    size: Size = 256,
    align: Align = "auto",
    image_format: ImageFormat = "jpeg",
    quality: Quality = 95,
    chunk: Chunk = 128,
    max_faces: MaxFaces = 16,
    min_face: MinFace = 40,
    limit: Limit = 0,
    terms: Terms = "",
    commercial_use: CommercialUse = None,
    workers: Annotated[int, typer.Option(help="worker processes; 0: one a CPU (or GPU) of the cluster")] = 0,
    gpu: Annotated[bool, typer.Option("--gpu", help="one GPU a labelling process")] = False,
) -> None:
    """Make training data of photos: faces, labels, people, no near-duplicates, no person in two splits.

    The same command again resumes a stopped one.
    """
    from rayface.labelling.groups import GroupOptions
    from rayface.labelling.labeller import LabelOptions
    from rayface.labelling.run import IngestOptions
    from rayface.labelling.run import label as run

    summary = run(
        source,
        out,
        LabelOptions(tuple(filter(None, with_.replace(" ", "").split(","))), _models(model), unsure, overwrite),
        GroupOptions(
            same_person=same_person,
            perhaps_same_person=perhaps_same_person,
            duplicates=duplicates,
            min_sharpness=min_sharpness,
        ),
        IngestOptions(
            format=format,
            size=size,
            align=align,
            image_format=image_format,
            quality=quality,
            chunk=chunk,
            max_faces=max_faces,
            min_face=min_face,
            limit=limit or None,
            terms=stated_terms(terms, commercial_use),
        ),
        splits=splits,
        store=store,
        workers=workers or None,
        gpu=gpu,
        tell=tell,
    )
    print(json.dumps(summary, indent=2))
    use = {True: "allowed", False: "not allowed"}.get(summary["commercial_use"], "not stated")
    tell(f"Commercial use of {out}: {use}. {summary['terms']}")


def _models(assignments: list[str]) -> dict[str, str]:
    models = {}
    for text in assignments:
        name, separator, ref = text.partition("=")
        if not separator or not ref:
            raise RayfaceError(f"--model {text!r}: expected label=reference, for example masks=parsing@2")
        models[name.strip()] = ref.strip()
    return models
