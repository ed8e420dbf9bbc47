"""Folders and buckets alike, through pyarrow's file systems; files are written whole or not at all."""

import contextlib
import os
import uuid
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from rayface.errors import RayfaceError


def absolute(address: str) -> str:
    """An address as it is, a path made absolute: Ray's workers run in other folders."""
    return address if "://" in address else os.path.abspath(os.path.expanduser(address))


def open_filesystem(path: str | Path) -> tuple[fs.FileSystem, str]:
    """The file system of a folder or of an address such as s3://bucket/folder, and the path in it.

    Raises RayfaceError for an address no file system understands.
    """
    text = str(path)
    try:
        if "://" in text:
            filesystem, inner = fs.FileSystem.from_uri(text)
            return filesystem, inner.rstrip("/")
        return fs.LocalFileSystem(use_mmap=True), str(Path(text).expanduser().absolute())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RayfaceError(
            f"{text}: no file system opens this address ({error}); give a folder, s3://..., gs://... or file:///...",
            kind="bad-address",
        ) from error


def write_bytes(data: bytes, path: str, filesystem: fs.FileSystem) -> None:
    """Write a small file atomically: other readers see the old file, or the new one whole.

    Raises RayfaceError when the place cannot be written (full, read-only, a file in the way).
    """
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.tmp-{uuid.uuid4().hex[:8]}-{name}"
    try:
        filesystem.create_dir(folder, recursive=True)
        with filesystem.open_output_stream(temporary) as stream:
            stream.write(data)
        filesystem.move(temporary, path)
    except OSError as error:
        _discard(temporary, filesystem)
        raise RayfaceError(
            f"{path} cannot be written ({error}); free space there, or choose an output you may write to.",
            status=507,
            kind="unwritable",
        ) from error


def _discard(path: str, filesystem: fs.FileSystem) -> None:
    with contextlib.suppress(OSError):  # it may never have been made; another error is being told
        filesystem.delete_file(path)
