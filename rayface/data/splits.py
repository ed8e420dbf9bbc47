"""Which split a photo is in: fixed rules, so that a test set stays the same on every machine."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

# The photos that `rayface data fetch celeba-mini` gives; the project's CelebA splits are defined on them.
_CELEBA_FIRST = 999
_HEX_NAME = re.compile(r"[0-9a-f]{32}")


def hashed_share(key: str) -> float:
    """A number in [0, 1) for every key, evenly spread; the same on every machine."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def hashed_split(key: str) -> str:
    """test for 10 % of the keys, validation for 5 %, else train; the same on every machine."""
    share = hashed_share(key)
    return "test" if share < 0.10 else "validation" if share < 0.15 else "train"


def celebamask_split(stem: str) -> str:
    """The split of a CelebAMask-HQ photo, by its file name without extension.

    Names of 32 hex digits: first digit 0 or 1 is test, 2 validation, else train; other names by hash.
    """
    if _HEX_NAME.fullmatch(stem):
        return {"0": "test", "1": "test", "2": "validation"}.get(stem[0], "train")
    return hashed_split(stem)


def celeba_splits(photos: Iterable[str], identity: Mapping[str, str], official: Mapping[str, str]) -> dict[str, str]:
    """The split of each CelebA photo, given as its number ("000001").

    Among the first 999 photos: those of people who have two or more photos there (the pairs that verification
    is measured on) are test, further 000850-000999 test and 000800-000849 validation; the rest is train.
    Photos above 999 of the same people follow them; others have CelebA's official partition where it is
    given, else a split hashed by person, or by photo where the person is unknown. So no known person is in
    two splits. (Photos up to 999 are all train officially: what is trained here and tested on the official
    test set never saw its people.)
    """
    early = [photo for photo in identity if int(photo) <= _CELEBA_FIRST]
    photos_of = Counter(identity[photo] for photo in early)
    of_person: dict[str, str] = {}
    for photo in early:
        person = identity[photo]
        of_person[person] = "test" if photos_of[person] > 1 else _celeba_split_by_number(photo)
    found = {}
    for photo in photos:
        known = identity.get(photo)
        if known in of_person:
            found[photo] = of_person[known]
        elif int(photo) <= _CELEBA_FIRST:
            found[photo] = _celeba_split_by_number(photo)
        else:
            found[photo] = official.get(photo) or hashed_split(known or photo)
    return found


def _celeba_split_by_number(photo: str) -> str:
    number = int(photo)
    return "test" if number >= 850 else "validation" if number >= 800 else "train"


def photo_of(face: str) -> str:
    """The photo's id within a face's: found faces are named PHOTO#0, PHOTO#1, ..., the one face of a source PHOTO."""
    return re.sub(r"#\d+$", "", face)


def unit_split(splits: Collection[str], key: str, rule: str) -> str:
    """The one split of faces that must stay together, a person or copies of a photo.

    `rule` "hash" is `hashed_split` of `key`; "keep" the strictest of the `splits` they are in: test, then
    validation, so that a test set only grows and nothing tested was trained on.
    """
    if rule == "hash":
        return hashed_split(key)
    return next(split for split in ("test", "validation", "train") if split in splits)
