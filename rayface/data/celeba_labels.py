"""CelebA's label files, in its own text form or as CSV (Z. Liu et al., ICCV 2015)."""

import csv
import re

from rayface import records
from rayface.errors import RayfaceError

NAME = re.compile(r"\d{6}\.(jpg|png)")
# File names by what is in them, the preferred one first.
FILES = {
    "attributes": ("list_attr_celeba.txt", "list_attr_celeba.csv", "attributes.csv"),
    "identity": ("identity_CelebA.txt", "identity.csv"),
    "landmarks": ("list_landmarks_align_celeba.txt", "list_landmarks_align_celeba.csv", "landmarks.csv"),
    "partition": ("list_eval_partition.txt", "list_eval_partition.csv"),
}


def attributes(path: str, text: str) -> dict[str, tuple[int, ...]]:
    """Number of the photo ("000001") -> 40 of 1 or -1 in the order of `records.ATTRIBUTES`."""
    header, rows = _table(path, text)
    missing = [name for name in records.ATTRIBUTES if name not in header]
    if missing:
        raise _bad(path, f"the attributes {', '.join(missing)} are missing in its header")
    columns = [header.index(name) for name in records.ATTRIBUTES]
    found = {}
    for photo, values in rows.items():
        numbers = _numbers(path, photo, values, len(header))
        if any(number not in (-1, 0, 1) for number in numbers):
            raise _bad(path, f"{photo} has values other than 1 and -1")
        found[photo] = tuple(int(numbers[column]) for column in columns)
    return found


def identities(path: str, text: str) -> dict[str, str]:
    """Number of the photo -> who it is."""
    _, rows = _table(path, text, header=False)
    if any(len(values) != 1 or not values[0] for values in rows.values()):
        raise _bad(path, "a line has not exactly one identity")
    return {photo: values[0] for photo, values in rows.items()}


def landmarks(path: str, text: str) -> dict[str, tuple[float, ...]]:
    """Number of the photo -> x, y of `records.LANDMARKS` in the 178 x 218 photo."""
    _, rows = _table(path, text)
    return {photo: tuple(_numbers(path, photo, values, 10)) for photo, values in rows.items()}


def partition(path: str, text: str) -> dict[str, str]:
    """Number of the photo -> split of CelebA's official partition."""
    _, rows = _table(path, text, header=False)
    found = {}
    for photo, values in rows.items():
        (number,) = _numbers(path, photo, values, 1)
        if number not in (0, 1, 2):
            raise _bad(path, f"{photo} is in partition {number}; 0, 1 and 2 are known")
        found[photo] = records.SPLITS[int(number)]
    return found


def _table(path: str, text: str, header: bool = True) -> tuple[list[str], dict[str, list[str]]]:
    """Column names (without the photo's) and photo number -> values, of a CSV or of CelebA's text form.

    The text form has a count in its first line where it has a header, which then is the second line.
    """
    if path.endswith(".csv"):
        lines = [row for row in csv.reader(text.splitlines()) if row]
        names = lines.pop(0)[1:] if lines else []
    else:
        lines = [line.split() for line in text.splitlines() if line.strip()]
        if header and lines and len(lines[0]) == 1:
            lines.pop(0)
        names = lines.pop(0) if header and lines else []
    rows = {}
    for line in lines:
        if not NAME.fullmatch(line[0]):
            raise _bad(path, f"a line begins with {line[0]!r} where a photo such as 000001.jpg is expected")
        rows[line[0].split(".")[0]] = line[1:]
    if not rows:
        raise _bad(path, "it has no rows")
    return names, rows


def _numbers(path: str, photo: str, values: list[str], count: int) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except ValueError as error:
        raise _bad(path, f"{photo}: {error}") from error
    if len(numbers) != count:
        raise _bad(path, f"{photo} has {len(numbers)} values where {count} are expected")
    return numbers


def _bad(path: str, what: str) -> RayfaceError:
    return RayfaceError(
        f"Label file {path}: {what}; fetch it again, or move it away to ingest without.", kind="bad-labels"
    )
