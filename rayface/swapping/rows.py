"""Which faces a set of swaps holds: for each split pairs of different people of it, drawn by the seed alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rayface.data.sampling import batch_indices
from rayface.errors import RayfaceError
from rayface.randomness import generator
from rayface.records import SPLITS

NOBODY = -1


class Row(NamedTuple):
    """A face of the set to be written: places in the source, and what is done to it."""

    face: int  # the photo itself, or the one that gets a face
    donor: int = NOBODY  # whose face it gets; NOBODY: its own
    step: str = ""  # a step that only retouches it


def draw_rows(
    splits: Sequence[str],
    people: Sequence[str | None],
    pairs: int = 0,
    seed: int = 0,
    steps: Sequence[str] = (),
    share: float = 0.25,
) -> list[Row]:
    """For every split: swaps, the real photos that they were made of, and a `share` of these retouched by each step.

    `splits` and `people` say where each face of the source is and who it shows; faces of nobody known are left out,
    as it cannot be said that their person is in one split only. `pairs`: swaps in all, shared out by the photos of each
    split; 0: as many as photos. Textures come in turn, donors are any of the split's other people.

    Raises RayfaceError: a person who is in two splits, or no split with two people.
    """
    _check_disjoint(splits, people)
    rows: list[Row] = []
    if len(set(steps)) < len(steps):
        raise RayfaceError(f"swaps: --retouch {','.join(steps)} names a step twice; name each once")
    known = [index for index, person in enumerate(people) if person is not None]
    for number, split in enumerate(SPLITS):
        faces = np.array([index for index in known if splits[index] == split], np.int64)
        names = np.array([people[index] for index in faces])
        count = round(pairs * len(faces) / len(known)) if pairs and known else len(faces)
        if len(set(names)) < 2 or not count:
            continue
        if count > len(faces):
            raise RayfaceError(
                f"swaps: --pairs {pairs} would take {count} of the {len(faces)} photos of the split {split}; each is "
                f"given one face: ask for at most {len(known)}"
            )
        chosen = faces[batch_indices(seed, 0, count, len(faces), f"textures of {split}")]
        textures = [int(index) for index in chosen]
        for place, texture in enumerate(textures):
            others = faces[names != people[texture]]
            random = generator(seed, number, place, "donor")
            rows.append(Row(texture, int(others[random.integers(len(others))])))
        real = list(dict.fromkeys(textures))
        rows += [Row(face) for face in real]
        for step in steps:
            some = generator(seed, number, 0, f"retouched by {step}").permutation(len(real))
            rows += [Row(real[place], step=step) for place in sorted(some[: round(share * len(real))])]
    if not rows:
        raise RayfaceError(
            "swaps: no split has two people to swap; identities come with --format identity, celeba's label files, "
            "drawn faces or `rayface data label`",
            kind="missing-column",
        )
    return rows


def _check_disjoint(splits: Sequence[str], people: Sequence[str | None]) -> None:
    split_of: dict[str, str] = {}
    for split, person in zip(splits, people, strict=True):
        if person is not None and split_of.setdefault(person, split) != split:
            raise RayfaceError(
                f"swaps: {person} is in the splits {split_of[person]} and {split}, so what is trained on these swaps "
                "would be tested on people it knows; `rayface data label` makes splits by person"
            )
