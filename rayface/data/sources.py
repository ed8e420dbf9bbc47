"""What there is to ingest: photos with what is known about them, found in the layouts data sets come in.

| format | layout |
|---|---|
| folder | any tree of pictures |
| identity | one folder a person (LFW): `Some_Name/Some_Name_0001.jpg` |
| celeba | `img_align_celeba/`, `photos/` or the folder itself; CelebA's label files where there are any |
| celebamask | `CelebA-HQ-img/` and part files, or `images/` and one mask an image in `masks/` |

A person is in one split only: people are assigned to splits by a hash of who they are, photos of unknown
people by a hash of their id (`hashed_split`), unless the format has a rule of its own.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pyarrow import fs

from rayface import records
from rayface.data import celeba_labels
from rayface.data.splits import celeba_splits, celebamask_split, hashed_split
from rayface.errors import RayfaceError
from rayface.storage import open_filesystem

# What is taken for a picture. Those of the second row cannot be opened: they are listed as
# rejected, not passed over.
_PICTURES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"}
_PICTURES |= {".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd"}
_PART_FILE = re.compile(rf"(\d+)_({'|'.join(records.PARSING_CLASSES[1:])})\.png", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """One photo to ingest.

    `id` is its path relative to the source, `bytes` its size on disk; `landmarks` are 10 numbers x, y in
    photo pixels; `attributes` are 40 of 1, -1, 0; `masks` are pairs of class id and path: one pair with class
    id None for a mask of class ids, else part files, later ones over earlier.
    """

    id: str
    path: str
    bytes: int
    split: str
    identity: str | None = None
    attributes: tuple[int, ...] | None = None
    landmarks: tuple[float, ...] | None = None
    masks: tuple[tuple[int | None, str], ...] = ()


@dataclass(frozen=True)
class Source:
    """The photos of a source, sorted by id, with what could not be used (id, reason, detail) and remarks."""

    format: str
    path: str
    items: list[Item]
    rejected: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def digest(self) -> str:
        """Changes when photos, their sizes on disk or their labels change; not when the folder is moved."""
        hashed = hashlib.blake2b(digest_size=16)
        for item in self.items:
            parts = [part for part, _ in item.masks]
            values = (item.id, item.bytes, item.split, item.identity, item.attributes, item.landmarks, parts)
            hashed.update(json.dumps(values).encode())
        return hashed.hexdigest()


@dataclass(frozen=True)
class _Tree:
    """The files below a folder: relative path -> bytes."""

    filesystem: fs.FileSystem
    root: str
    shown: str
    files: dict[str, int]

    def full(self, path: str) -> str:
        return f"{self.root}/{path}"

    def pictures(self) -> list[str]:
        return [path for path in self.files if PurePosixPath(path).suffix.lower() in _PICTURES]

    def read_named(self, *names: str) -> tuple[str, str] | None:
        """Path and text of the file with one of these names (earlier names and shallower folders first)."""
        for name in names:
            found = [path for path in self.files if PurePosixPath(path).name == name]
            if found:
                path = min(found, key=lambda value: (value.count("/"), value))
                with self.filesystem.open_input_stream(self.full(path)) as stream:
                    return path, stream.read().decode("utf-8", errors="replace")
        return None


def find_items(source: str | Path, format: str, limit: int | None = None) -> Source:
    """The photos of `source` (a folder or an address such as s3://bucket/photos), at most `limit` of them.

    Raises RayfaceError for an unknown format, a missing source, a layout that does not fit the format, or
    labels that cannot be read.
    """
    if format not in FORMATS:
        raise RayfaceError(f"Format {format!r} is unknown; choose one of {', '.join(FORMATS)}.", kind="bad-format")
    if limit is not None and limit < 1:
        raise RayfaceError(f"A limit of {limit} photos makes no sense; give a positive number.")
    tree = _list(source)
    found = FORMATS[format](tree)
    found.items.sort(key=lambda item: item.id)
    if limit is not None:
        del found.items[limit:]
    return found


def _list(source: str | Path) -> _Tree:
    filesystem, root = open_filesystem(source)
    try:
        infos = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    except OSError as error:
        raise RayfaceError(
            f"{source} cannot be listed ({error}); give a folder of pictures.", status=404, kind="no-source"
        ) from error
    files = {}
    for info in infos:
        try:
            path = info.path[len(root) :].lstrip("/")
        except UnicodeDecodeError as error:
            raise RayfaceError(
                f"A file name in {source} is not UTF-8 ({error.object!r}); rename the file, for example with convmv.",
                kind="bad-file-name",
            ) from error
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.split("/"))
        if info.type == fs.FileType.File and not hidden:
            files[path] = info.size or 0
    return _Tree(filesystem, root, str(source), dict(sorted(files.items())))


def _folder(tree: _Tree) -> Source:
    items = [Item(path, tree.full(path), tree.files[path], hashed_split(path)) for path in tree.pictures()]
    if not items:
        raise _no_layout(tree, "folder", "files ending in .jpg, .png, .webp, .bmp or .tif at any depth")
    return Source("folder", tree.shown, items)


def _identity(tree: _Tree) -> Source:
    pictures = [PurePosixPath(path) for path in tree.pictures()]
    depth = 0  # people may lie one or more folders down: lfw/lfw/Some_Name/Some_Name_0001.jpg
    while pictures and all(len(p.parts) > depth + 2 for p in pictures):
        if len({p.parts[depth] for p in pictures}) > 1:
            break
        depth += 1
    items, stray = [], []
    for picture in pictures:
        path = str(picture)
        if len(picture.parts) < depth + 2:
            stray.append((path, "no-identity", "the picture lies in no person's folder"))
            continue
        person = picture.parts[depth]
        items.append(Item(path, tree.full(path), tree.files[path], hashed_split(person), person))
    if not items:
        raise _no_layout(tree, "identity", "one folder a person with pictures in it (Some_Name/photo.jpg)")
    return Source("identity", tree.shown, items, stray)


def _celeba(tree: _Tree) -> Source:
    """CelebA, aligned photos; splits by `splits.celeba_splits`."""
    numbered = [p for p in tree.pictures() if celeba_labels.NAME.fullmatch(PurePosixPath(p).name)]
    if not numbered:
        raise _no_layout(
            tree,
            "celeba",
            "numbered photos (000001.jpg ...) in img_align_celeba/, photos/ or the folder itself",
        )
    folder, _ = Counter(str(PurePosixPath(path).parent) for path in numbered).most_common(1)[0]
    photos = {PurePosixPath(path).name: path for path in numbered if str(PurePosixPath(path).parent) == folder}
    stem_of = {name: name.split(".")[0] for name in photos}
    tables = {kind: tree.read_named(*names) for kind, names in celeba_labels.FILES.items()}
    attributes = celeba_labels.attributes(*tables["attributes"]) if tables["attributes"] else {}
    identities = celeba_labels.identities(*tables["identity"]) if tables["identity"] else {}
    landmarks = celeba_labels.landmarks(*tables["landmarks"]) if tables["landmarks"] else {}
    partition = celeba_labels.partition(*tables["partition"]) if tables["partition"] else {}
    splits = celeba_splits(stem_of.values(), identities, partition)
    items = []
    for name, path in photos.items():
        stem = stem_of[name]
        items.append(
            Item(
                name,
                tree.full(path),
                tree.files[path],
                splits[stem],
                identities.get(stem),
                attributes.get(stem),
                landmarks.get(stem),
            )
        )
    notes = [f"no {kind} labels found" for kind in ("attributes", "identity", "landmarks") if not tables[kind]]
    if not identities:
        notes.append("without identity labels a person may be in two splits")
    return Source("celeba", tree.shown, items, notes=notes)


def _celebamask(tree: _Tree) -> Source:
    """CelebAMask-HQ (C.-H. Lee et al., CVPR 2020).

    Part files are merged in the order of its own script g_mask.py, later parts over earlier: that is the
    order of `records.PARSING_CLASSES`. Splits by `splits.celebamask_split`.
    """
    parts: dict[str, list[tuple[int | None, str]]] = {}
    masks: dict[str, str] = {}
    photos: dict[str, str] = {}
    for path in tree.pictures():
        pure = PurePosixPath(path)
        part = _PART_FILE.fullmatch(pure.name)
        if part:
            class_id = records.PARSING_ID[part[2].lower()]
            parts.setdefault(str(int(part[1])), []).append((class_id, path))
        elif "masks" in pure.parts[:-1]:
            masks[pure.stem] = path
        else:
            photos[pure.stem] = path
    items = []
    for stem, path in photos.items():
        number = str(int(stem)) if stem.isdecimal() else stem
        found = sorted(parts.get(number, []), key=lambda pair: pair[0] or 0)
        if stem in masks:
            found = [(None, masks[stem])]
        full = tuple((class_id, tree.full(mask)) for class_id, mask in found)
        items.append(Item(path, tree.full(path), tree.files[path], celebamask_split(stem), masks=full))
    if not any(item.masks for item in items):
        raise _no_layout(
            tree,
            "celebamask",
            "CelebA-HQ-img/0.jpg with CelebAMask-HQ-mask-anno/0/00000_skin.png ..., or images/NAME.jpg with "
            "masks/NAME.png",
        )
    bare = sum(not item.masks for item in items)
    return Source("celebamask", tree.shown, items, notes=[f"{bare} photos have no mask"] if bare else [])


def _no_layout(tree: _Tree, format: str, looked_for: str) -> RayfaceError:
    seen = ", ".join(list(tree.files)[:5]) or "no file"
    return RayfaceError(
        f"{tree.shown} is not laid out as --format {format}: looked for {looked_for}; found {seen}"
        f"{' ...' if len(tree.files) > 5 else ''}.",
        kind="bad-layout",
    )


FORMATS: Mapping[str, Callable[[_Tree], Source]] = {
    "folder": _folder,
    "celeba": _celeba,
    "celebamask": _celebamask,
    "identity": _identity,
}
