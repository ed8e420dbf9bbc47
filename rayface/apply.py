"""`rayface apply`: the pipeline over a photo or a folder, in this process (`apply_pass` has the cluster)."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pyarrow import fs

from rayface.credentials import CredentialSettings, Signer, xmp
from rayface.errors import RayfaceError
from rayface.storage import open_filesystem, write_bytes
from rayface.store import ModelStore

if TYPE_CHECKING:
    from rayface.pipeline import Pipeline

SUFFIXES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}  # of results
AS_PNG = (".bmp", ".tif", ".tiff", ".jpe", ".jfif")  # are read, too
UNREAD = (".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl", ".dng", ".cr2", ".nef", ".arw")  # pictures all the same


@dataclasses.dataclass(frozen=True)
class Application:
    """What is done to every photo, as it was asked for; `prepare` makes it ready.

    `assignments` are `key=value` parameters (strength, faces, boxes, scale, style, add, remove, donor (a photo),
    consent; max_output_megapixels, identity_guard, similarity_threshold), `models` are `step=name@version` where a step
    (or "parse", "identify") takes another model than the one named as its system.
    """

    steps: Sequence[str]
    assignments: Sequence[str] = ()
    models: Sequence[str] = ()
    credentials: CredentialSettings = dataclasses.field(default_factory=CredentialSettings)  # who signs the results

    def chosen_models(self) -> dict[str, str]:
        return dict(_assignment("--model", text, "enhance=enhancement@2") for text in self.models)

    def settings(self) -> dict[str, str]:
        return dict(_assignment("--set", text, "strength=0.5") for text in self.assignments)

    def guard(self) -> tuple[str, float | None]:
        """What the identity guard does, and its threshold where one was given."""
        values = self.settings()
        return values.get("identity_guard", "blend"), _threshold(values.get("similarity_threshold"))

    def prepare(self, store: ModelStore, device: str = "cpu") -> "Applied":
        """Models and parameters. Raises RayfaceError for a bad parameter, an unknown step or model."""
        from rayface.pipeline import Pipeline
        from rayface.work import check_asked, check_params, check_swap, of_the_donor

        signer, values = Signer(self.credentials), self.settings()
        megapixels = _megapixels(values.pop("max_output_megapixels", None))
        action, threshold = self.guard()
        given: dict[str, Any] = {
            key: value for key, value in values.items() if key not in ("identity_guard", "similarity_threshold")
        }
        donor = given.pop("donor", "")
        params = check_params(given)
        check_asked(self.steps, params)
        check_swap(self.steps, bool(donor), params.consent)
        pipeline = Pipeline.from_store(
            store, self.steps, self.chosen_models(), device, identity_guard=action, similarity_threshold=threshold
        )
        pipeline.max_output_megapixels = megapixels
        if donor:
            try:
                params = dataclasses.replace(params, donor=pipeline.donor(read_donor(donor)))
            except RayfaceError as error:
                raise of_the_donor(error) from error
        return Applied(pipeline, list(self.steps), params, signer)


@dataclasses.dataclass
class Applied:
    """An application with its models loaded."""

    pipeline: "Pipeline"
    steps: list[str]
    params: Any
    signer: Signer

    def one(self, source: str, target: str) -> dict[str, Any]:
        """Write the result of one photo, whole or not at all, and report it; folders or addresses."""
        from rayface.imaging.codec import decode, encode

        filesystem, path = open_filesystem(source)
        with filesystem.open_input_stream(path) as stream:
            original = stream.read()
        result = self.pipeline.process(decode(original), self.steps, self.params)
        report = dataclasses.asdict(result.report)
        format = SUFFIXES[PurePosixPath(target).suffix.lower()]
        picture = encode(result.photo, format, xmp=xmp(report))  # type: ignore[arg-type]
        filesystem, path = open_filesystem(target)
        write_bytes(self.signer.sign(picture, format, report, original), path, filesystem)
        return {"photo": source, "result": target, "signer": self.signer.name, **report}

    def one_of_many(self, source: str, target: str) -> dict[str, Any]:
        """The same; a photo that cannot be processed is reported as `error`, and does not stop the others.

        Raises RayfaceError where the storage fails: that would be the same for all of them.
        """
        try:
            return self.one(source, target)
        except (RayfaceError, FileNotFoundError, PermissionError) as error:
            if isinstance(error, RayfaceError) and error.kind in ("unwritable", "bad-address", "not-signed"):
                raise
            return {"photo": source, "error": str(error)}
        except OSError as error:
            raise RayfaceError(
                f"{source} cannot be read ({error}); start again when the storage answers", kind="unreadable"
            ) from error


def apply_steps(
    steps: Sequence[str],
    source: str,
    target: str,
    store: ModelStore,
    assignments: Sequence[str] = (),
    models: Sequence[str] = (),
    credentials: CredentialSettings = CredentialSettings(),
) -> dict[str, Any]:
    """Run `steps` on a photo, or on every photo of a folder into the folder `target`, and report what was done.

    `assignments`, `models`, `credentials`: see Application. In a folder, a picture that cannot be processed is listed
    in the report and does not stop the others; results of BMP and TIFF are PNG, existing results are replaced.
    Raises RayfaceError for a missing source, an unknown output format or a bad parameter.
    """
    application = Application(steps, assignments, models, credentials)
    if is_folder(source):
        photos = list_photos(source, target)
        prepared = application.prepare(store)
        return {"photos": [prepared.one_of_many(*paths(source, target, name)) for name, _ in photos]}
    if PurePosixPath(target).suffix.lower() not in SUFFIXES:
        raise RayfaceError(f"{target}: the result's name must end in {', '.join(SUFFIXES)}")
    _check_other(source, target)
    return {"photos": [application.prepare(store).one(str(source), str(target))]}


def is_folder(source: str) -> bool:
    """Whether it is a folder of photos, not one photo. Raises RayfaceError where there is neither."""
    filesystem, path = open_filesystem(source)
    kind = filesystem.get_file_info(path).type
    if kind == fs.FileType.NotFound:
        raise RayfaceError(f"{source} does not exist; give a photo or a folder of photos")
    return bool(kind == fs.FileType.Directory)


def list_photos(source: str, target: str) -> list[tuple[str, int]]:
    """Names (below the folder `source`) and sizes of its pictures, sorted; without what lies in `target`.

    Raises RayfaceError where there are none, and for a target that is the source or a file.
    """
    _check_other(source, target)
    filesystem, root = open_filesystem(source)
    to_filesystem, to = open_filesystem(target)
    if to_filesystem.get_file_info(to).type == fs.FileType.File:
        raise RayfaceError(f"{target} is a file; the results of a folder go into a folder")
    root, to = _real(filesystem, root), _real(to_filesystem, to)
    below = filesystem.type_name == to_filesystem.type_name and to.startswith(f"{root}/")
    inside = f"{to}/" if below else None
    found = []
    for info in filesystem.get_file_info(fs.FileSelector(root, recursive=True)):
        picture = PurePosixPath(info.path).suffix.lower() in (*SUFFIXES, *AS_PNG, *UNREAD)
        if picture and info.type == fs.FileType.File and not (inside and info.path.startswith(inside)):
            found.append((info.path[len(root) :].lstrip("/"), int(info.size or 0)))
    if not found:
        raise RayfaceError(f"{source} holds no photos ({', '.join((*SUFFIXES, *AS_PNG))})")
    return sorted(found)


def paths(source: str, target: str, name: str) -> tuple[str, str]:
    """Where a photo of a folder lies, and where its result goes."""
    # a.tif and a.png may lie side by side
    result = name if PurePosixPath(name).suffix.lower() in SUFFIXES else f"{name}.png"
    return _below(str(source), name), _below(str(target), result)


def _below(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{quote(name) if '://' in folder else name}"  # an address is read as a URI


def _real(filesystem: fs.FileSystem, path: str) -> str:
    """Of a local path the one without symbolic links."""
    return os.path.realpath(path) if filesystem.type_name == "local" else path


def _check_other(source: str, target: str) -> None:
    (a, of_a), (b, of_b) = open_filesystem(source), open_filesystem(target)
    if a.type_name == b.type_name and _real(a, of_a) == _real(b, of_b):
        raise RayfaceError(f"{target} is the input itself; choose another OUTPUT, so that the originals stay")


def read_donor(donor: str) -> bytes:
    """The donor's photo, of a path or an address. Raises RayfaceError where it cannot be read."""
    filesystem, path = open_filesystem(donor)
    try:
        with filesystem.open_input_stream(path) as stream:
            return stream.read()
    except OSError as error:
        raise RayfaceError(f"{donor} cannot be read ({error}); give the photo of a face") from error


def _megapixels(text: str | None) -> float:
    """The limit of an enlarged photo; only who runs the program may move it, not a request."""
    from rayface.work import MAX_OUTPUT_MEGAPIXELS

    if text is None:
        return MAX_OUTPUT_MEGAPIXELS
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise RayfaceError(f"max_output_megapixels is {text!r}; give a number above 0, for example 64.")
    return value


def _threshold(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        raise RayfaceError(f"similarity_threshold is {text!r}; give a cosine from -1 to 1, for example 0.97.") from None


def _assignment(option: str, text: str, example: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise RayfaceError(f"{option} {text!r}: expected key=value, for example {option} {example}")
    return key.strip(), value.strip()
