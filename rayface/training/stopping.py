"""Faults that every retry would meet again end a run at once: Ray Train itself retries whatever failed.

A worker that meets one leaves the reason in the run's folder. The group that Ray then starts finds it there and ends
without training, and the driver tells it.
"""

import contextlib
import json
from typing import Any

from rayface.errors import RayfaceError
from rayface.storage import open_filesystem, write_bytes

FAILURE_FILE = "failure.json"
# Kinds of errors that do not come from storage, which may answer again a moment later.
LASTING = {"bad-request", "missing-column", "empty-dataset", "schema-mismatch", "bad-labels"}


def leave_reason(run_folder: str, error: RayfaceError) -> None:
    """Keep the reason of a fault that every retry would meet; on any rank. The first one stays."""
    if error.kind not in LASTING:
        return
    with contextlib.suppress(RayfaceError, OSError):  # storage that fails as well: Ray retries
        filesystem, folder = open_filesystem(run_folder)
        if reason_left(run_folder):
            return
        write_bytes(json.dumps({"reason": str(error)}).encode(), f"{folder}/{FAILURE_FILE}", filesystem)


def reason_left(run_folder: str) -> str | None:
    """Why the run was stopped; None where it was not."""
    filesystem, folder = open_filesystem(run_folder)
    try:
        with filesystem.open_input_stream(f"{folder}/{FAILURE_FILE}") as stream:
            content: dict[str, Any] = json.loads(stream.read())
    except FileNotFoundError:
        return None
    return str(content["reason"])


def forget_reason(run_folder: str) -> None:
    """A new start tries again."""
    filesystem, folder = open_filesystem(run_folder)
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_file(f"{folder}/{FAILURE_FILE}")
