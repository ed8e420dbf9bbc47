"""Several data sets as one: `rayface data merge`."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pyarrow import fs

from rayface import storage
from rayface.data import shards
from rayface.errors import RayfaceError
from rayface.terms import dataset_terms, inherited


def merge(sources: Sequence[str], out: str) -> dict[str, Any]:
    """Write the faces of the data sets `sources` (folders or addresses), in that order, as one into `out`.

    Faces keep ids, labels, people and splits, and rejected.csv lists what any of them left out. Whether a person of one
    source is in another split of the next is not known here: `rayface data label` on the result finds people and keeps
    each in one split. Gives the manifest.

    Raises RayfaceError: fewer than two sources, other crop sizes, an id or a person's name that two sources have, or
    `out` that holds something already.
    """
    if len(sources) < 2:
        raise RayfaceError("give two data sets or more to merge")
    places = [storage.open_filesystem(source) for source in sources]
    manifests = [shards.read_manifest(folder, filesystem) for filesystem, folder in places]
    _check(sources, places, manifests)
    filesystem, folder = storage.open_filesystem(out)
    if filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        raise RayfaceError(f"{out} is not empty; choose another folder or delete it", status=409, kind="dataset-exists")
    number = 0
    for (from_filesystem, from_folder), manifest in zip(places, manifests, strict=True):
        for entry in manifest["shards"]:
            with from_filesystem.open_input_stream(f"{from_folder}/{entry['name']}") as stream:
                storage.write_bytes(stream.read(), f"{folder}/{shards.shard_name(number)}", filesystem)
            number += 1
    left_out = [row for other, place in places for row in shards.read_rejected(place, other)]
    shards.write_rejected(left_out, folder, filesystem)
    rejected, labelled_by = Counter[str](), dict[str, list[Any]]()
    for manifest in manifests:
        rejected.update(manifest.get("rejected", {}))
        for column, entries in manifest.get("labelled_by", {}).items():
            labelled_by.setdefault(column, []).extend(entries)
    said = {
        f"data {place} ({manifest['format']})": dataset_terms(manifest) for place, manifest in enumerate(manifests, 1)
    }
    stated = inherited(said)
    return shards.write_manifest(
        folder,
        filesystem,
        format="merged",
        size=int(manifests[0]["size"]),
        options={"sources": [_fingerprint(manifest) for manifest in manifests]},
        rejected=rejected,
        terms={key: stated[key] for key in ("terms", "commercial_use")},
        further={"labelled_by": labelled_by} if labelled_by else None,
    )


def _check(
    sources: Sequence[str], places: Sequence[tuple[fs.FileSystem, str]], manifests: Sequence[dict[str, Any]]
) -> None:
    seen: dict[str, dict[str, int]] = {"id": {}, "identity": {}}
    for number, (filesystem, folder) in enumerate(places):
        source, manifest = sources[number], manifests[number]
        if manifest["size"] != manifests[0]["size"]:
            raise RayfaceError(
                f"{source} has crops of {manifest['size']} px and {sources[0]} of {manifests[0]['size']} px; make both "
                "with one --size"
            )
        for entry in manifest["shards"]:
            table = shards.read_columns(f"{folder}/{entry['name']}", filesystem, ["id", "identity"])
            for column, owners in seen.items():
                for value in filter(None, table[column].to_pylist()):
                    if owners.setdefault(value, number) != number:
                        raise RayfaceError(
                            f"{sources[owners[value]]} and {source} both have the {column} {value!r}: the same face or "
                            "person? Then merge photos, not data sets; else rename it in one of them."
                        )


def _fingerprint(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the result is made of, independent of where it lay."""
    described = {key: manifest[key] for key in ("format", "faces", "options", "shards") if key in manifest}
    digest = hashlib.blake2b(repr(sorted(described.items())).encode(), digest_size=16).hexdigest()
    return {"format": manifest["format"], "faces": manifest["faces"], "digest": digest}
