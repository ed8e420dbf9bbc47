"""One pass over what is known of all faces: who is one person, what is the same photo again, who is in which split."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from rayface import storage
from rayface.data import shards
from rayface.data.grouping import THUMBNAIL_SIDE, AlikePairs, alike, connected, fingerprints, kept_once, person_groups
from rayface.data.splits import photo_of, unit_split
from rayface.errors import RayfaceError

# How alike embeddings of one person are differs from recogniser to recogniser, so each states it: `cosines` of its
# config.json, chosen by pairs of different people (systems.recognition.chosen_cosines).
COSINES = ("same_person", "perhaps_same_person")
SAME_PHOTO = 0.87  # 98.5 % of copies of 120 train photos lie above it, every pair of other train photos below 0.82

GROUP = "group:"  # before the name of a person whom only the grouping knows: that of the group's first face
DECISIONS = "decisions.parquet"
DECISION_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("identity", pa.string()),
        pa.field("predicted", pa.bool_(), nullable=False),  # whether the identity is the grouping's, not the source's
        pa.field("left_out", pa.string()),  # the reason, null for faces that stay
        pa.field("repeats", pa.string()),  # the face this one is a near-duplicate of
        pa.field("similarity", pa.float32()),
        pa.field("sharpness", pa.float32()),
    ]
)


@dataclass(frozen=True)
class GroupOptions:
    """How faces are grouped.

    same_person: cosine of two embeddings (their average between groups) from which on they are of one person.
    perhaps_same_person: the same, from which on they are in one split; never above same_person. 0 for either: what the
    recogniser states (`stated_by`). A wrong name is worse than a missed one; for splits a missed one is. same_photo:
    correlation of two thumbnails from which on they are the same photo. duplicates: "drop" keeps the sharpest of
    each, "keep" all; both list them. min_sharpness: softer faces are left out. splits: "hash" gives each person a
    split by hash, "keep" moves a person who is in several to the strictest (test, then validation).
    """

    same_person: float = 0.0
    perhaps_same_person: float = 0.0
    same_photo: float = SAME_PHOTO
    duplicates: str = "drop"
    min_sharpness: float = 0.0
    splits: str = "hash"

    def __post_init__(self) -> None:
        for name in (*COSINES, "same_photo"):
            if not 0 <= getattr(self, name) <= 1 or (name == "same_photo" and not self.same_photo):
                raise RayfaceError(f"label: {name}={getattr(self, name)} must be above 0 and at most 1.")
        if self.same_person and self.perhaps_same_person > self.same_person:
            raise RayfaceError(
                f"label: perhaps_same_person={self.perhaps_same_person} must not be above same_person="
                f"{self.same_person}: a person would be in two splits."
            )
        for name, choices in (("duplicates", ("drop", "keep")), ("splits", ("hash", "keep"))):
            if getattr(self, name) not in choices:
                raise RayfaceError(f"label: {name}={getattr(self, name)!r}: choose {' or '.join(choices)}.")
        if not 0 <= self.min_sharpness < float("inf"):
            raise RayfaceError(f"label: min_sharpness={self.min_sharpness} must be 0 or more.")

    def stated_by(self, recogniser: Mapping[str, Any]) -> "GroupOptions":
        """These options, with the `cosines` of a recogniser (`model` and further keys) where none is given.

        Raises RayfaceError for a recogniser that states none.
        """
        if self.same_person and self.perhaps_same_person:
            return self
        stated = recogniser.get("cosines", {})
        if not all(isinstance(stated.get(name), float) for name in COSINES):
            raise RayfaceError(
                f"label: {recogniser['model']} does not state from which cosine on two faces are of one person "
                "(`cosines` of its config.json). Give --same-person and --perhaps-same-person, chosen on pairs of "
                "people that you know, or take --model embeddings=pretrained:dlib, or label without embeddings."
            )
        same = self.same_person or stated["same_person"]
        perhaps = self.perhaps_same_person or min(stated["perhaps_same_person"], same)
        return dataclasses.replace(self, same_person=same, perhaps_same_person=perhaps)


@dataclass(frozen=True)
class Faces:
    """What grouping looks at, row for row: N faces. `embeddings` float32 [N, D], zeros where there is none."""

    shard: list[str]
    ids: list[str]
    splits: list[str]
    known: list[str | None]
    embeddings: np.ndarray
    fingerprints: np.ndarray
    sharpness: np.ndarray  # float32 [N], NaN where not measured


def read_faces(faces: str, labels: str) -> Faces:
    """All faces of the data set `faces` with the labels' files in the folder `labels`."""
    filesystem, folder = storage.open_filesystem(faces)
    label_files, label_folder = storage.open_filesystem(labels)
    tables, names, vectors, prints, sharp = [], list[str](), list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    for name in shards.list_shards(filesystem, folder):
        known = shards.read_columns(
            f"{folder}/{name}", filesystem, ["id", "split", "identity", "embedding", "sharpness"]
        )
        with label_files.open_input_file(f"{label_folder}/{name}") as file:
            made = pq.read_table(file, columns=["id", "embedding", "sharpness", "thumbnail"])
        if made["id"].to_pylist() != known["id"].to_pylist():
            raise RayfaceError(f"{label_folder}/{name} belongs to other faces; delete {label_folder} and label again.")
        tables.append(known.select(["id", "split", "identity"]))
        names += [name] * known.num_rows
        vectors += _either(made["embedding"], known["embedding"])
        sharp.append(np.array(_either(made["sharpness"], known["sharpness"]), np.float32))
        prints.append(np.frombuffer(b"".join(made["thumbnail"].to_pylist()), np.uint8).reshape(-1, THUMBNAIL_SIDE**2))
    table = pa.concat_tables(tables)
    embeddings = _stacked(vectors)
    labelled_by = shards.read_manifest(folder, filesystem).get("labelled_by", {})
    identity = table["identity"].to_pylist()
    if "identity" in labelled_by:  # an earlier grouping's names are guesses, which this one makes anew
        guessed = [name is not None and name.startswith(GROUP) for name in identity]
        again = np.array(guessed, bool) & embeddings.any(1)
        identity = [None if drop else name for name, drop in zip(identity, again, strict=True)]
    return Faces(
        names,
        table["id"].to_pylist(),
        table["split"].to_pylist(),
        identity,
        embeddings,
        fingerprints(np.concatenate(prints)),
        np.concatenate(sharp),
    )


def _either(made: pa.ChunkedArray, known: pa.ChunkedArray) -> list[Any]:
    """What was predicted, else what the source has; None where neither is there."""
    pairs = zip(made.to_pylist(), known.to_pylist(), strict=True)
    return [_array(first if first is not None else second) for first, second in pairs]


def _array(value: Any) -> Any:
    return np.array(value, np.float32) if isinstance(value, list) else value


def _stacked(vectors: Sequence[np.ndarray | None]) -> np.ndarray:
    sides = {len(vector) for vector in vectors if vector is not None}
    if len(sides) > 1:
        raise RayfaceError(
            f"label: the data set mixes embeddings of {' and '.join(map(str, sorted(sides)))} numbers, of different "
            "models; use --overwrite, which makes all anew."
        )
    stacked = np.zeros((len(vectors), max(sides, default=1)), np.float32)
    for row, vector in enumerate(vectors):
        if vector is not None:
            stacked[row] = vector
    return stacked


def decide(faces: Faces, options: GroupOptions) -> tuple[pa.Table, dict[str, Any]]:
    """What becomes of each face (DECISION_SCHEMA, the order of `faces`), and counts of the groups.

    Raises RayfaceError where there are embeddings and `options` lack a cosine.
    """
    soft = np.asarray(faces.sharpness < options.min_sharpness)  # NaN is not
    embedded = np.asarray(faces.embeddings.any(1))
    if embedded.any():
        options = options.stated_by({"model": "the recogniser of these embeddings"})
    same_person, perhaps_same = options.same_person or 1.0, options.perhaps_same_person or 1.0  # zeros are like nobody
    people = alike(np.where(soft[:, None], 0, faces.embeddings), perhaps_same)
    groups = person_groups(faces.embeddings, people.above(same_person), same_person, faces.known)
    perhaps = person_groups(faces.embeddings, people, perhaps_same)
    copies = alike(np.where(soft[:, None], 0, faces.fingerprints), options.same_photo)
    sharpness = np.nan_to_num(faces.sharpness)
    steps = np.round(10 * np.log(np.maximum(sharpness, 1e-3))).tolist()  # of a tenth: compression noise is no detail
    order = sorted(range(len(faces.ids)), key=lambda i: (faces.known[i] is None, -steps[i], i))
    repeats = kept_once(copies, order)
    splits = _splits(faces, (groups, perhaps), copies, options)
    identity, predicted = _identities(faces, groups, embedded)
    dropped = set(repeats) if options.duplicates == "drop" else set()
    left_out = ["too-soft" if soft[i] else "duplicate" if i in dropped else None for i in range(len(faces.ids))]
    table = pa.Table.from_pydict(
        {
            "shard": faces.shard,
            "id": faces.ids,
            "split": splits,
            "identity": identity,
            "predicted": predicted,
            "left_out": left_out,
            "repeats": [faces.ids[repeats[i][0]] if i in repeats else None for i in range(len(faces.ids))],
            "similarity": [repeats[i][1] if i in repeats else None for i in range(len(faces.ids))],
            "sharpness": [None if np.isnan(value) else value for value in faces.sharpness],
        },
        schema=DECISION_SCHEMA,
    )
    stays = np.array([reason is None for reason in left_out], bool)
    sizes = Counter(name for name, reason in zip(identity, left_out, strict=True) if name is not None and not reason)
    return table, {
        "people": len(sizes),
        "people_with_two_or_more": sum(size > 1 for size in sizes.values()),
        "largest_group": max(sizes.values(), default=0),
        "near_duplicates": len(repeats),
        "alike_across_splits": _across(people.above(same_person), splits, stays),
    }


def _splits(
    faces: Faces, groupings: tuple[np.ndarray, np.ndarray], copies: AlikePairs, options: GroupOptions
) -> list[str]:
    """A split for each face: one for all of a group, for all copies of a photo whoever they are said to show, and for
    all faces of a photo, which share light, place and camera.

    By "hash" a face that is like no other gets the split that ingest gave its photo.
    """
    photos = [photo_of(name) for name in faces.ids]
    links: list[tuple[int, int]] = []
    for units in (*(groups.tolist() for groups in groupings), photos):
        first_of: dict[int | str, int] = {}
        links += [(first_of.setdefault(unit, face), face) for face, unit in enumerate(units)]
    links += zip(copies.first.tolist(), copies.second.tolist(), strict=True)
    unit_of = connected(len(faces.ids), links)
    members: dict[int, list[int]] = {}
    for face, unit in enumerate(unit_of.tolist()):
        members.setdefault(unit, []).append(face)
    split_of = {}
    for unit, held in members.items():
        known = sorted({name for i in held if (name := faces.known[i]) is not None})
        key = known[0] if known else min(photos[i] for i in held)
        split_of[unit] = unit_split([faces.splits[i] for i in held], key, options.splits)
    return [split_of[unit] for unit in unit_of.tolist()]


def _identities(faces: Faces, groups: np.ndarray, embedded: np.ndarray) -> tuple[list[str | None], list[bool]]:
    """Who each face is: what the source says, else the known person of its group, else the group's first face."""
    name_of: dict[int, str] = {}
    for face, group in enumerate(groups.tolist()):
        if (name := faces.known[face]) is not None:
            name_of.setdefault(group, name)
    for face, group in enumerate(groups.tolist()):
        if embedded[face]:
            name_of.setdefault(group, f"{GROUP}{faces.ids[face]}")
    identity: list[str | None] = []
    for face, group in enumerate(groups.tolist()):
        known = faces.known[face]
        identity.append(known if known is not None else name_of.get(group) if embedded[face] else None)
    predicted = [name is not None and known is None for name, known in zip(identity, faces.known, strict=True)]
    return identity, predicted


def _across(people: AlikePairs, splits: Sequence[str], stays: np.ndarray) -> int:
    """Pairs of faces in different splits that are as alike as one person: what grouping did not join."""
    pairs = zip(people.first.tolist(), people.second.tolist(), strict=True)
    return sum(bool(stays[a] and stays[b]) and splits[a] != splits[b] for a, b in pairs)


def write_lists(table: pa.Table, rejected: Sequence[Sequence[str]], filesystem: fs.FileSystem, folder: str) -> None:
    """Write groups.csv, duplicates.csv and rejected.csv; `rejected` are the rows of the source's rejected.csv."""
    rows = table.to_pylist()
    sizes = Counter(row["identity"] for row in rows if row["left_out"] is None and row["identity"] is not None)
    grouped = [
        (row["id"], row["identity"], sizes[row["identity"]], row["split"], "predicted" if row["predicted"] else "known")
        for row in rows
        if row["left_out"] is None and row["identity"] is not None
    ]
    copies = [
        (
            row["id"],
            row["repeats"],
            f"{row['similarity']:.4f}",
            "kept" if row["left_out"] is None else "left out",
            f"the same photo as {row['repeats']}: their detail correlates by {row['similarity']:.2f}",
        )
        for row in rows
        if row["repeats"] is not None
    ]
    out = [(row["id"], row["left_out"], _why(row)) for row in rows if row["left_out"] is not None]
    shards.write_csv(("id", "identity", "faces", "split", "identity_is"), grouped, f"{folder}/groups.csv", filesystem)
    shards.write_csv(("id", "repeats", "similarity", "is", "reason"), copies, f"{folder}/duplicates.csv", filesystem)
    shards.write_rejected([*rejected, *out], folder, filesystem)


def _why(row: dict[str, Any]) -> str:
    if row["left_out"] == "too-soft":
        return f"its sharpness is {row['sharpness']:.3f}"
    return f"a near-duplicate of {row['repeats']} ({row['similarity']:.2f})"
