"""Which checkpoint a run goes on from: the newest that is whole.

Beside its state a checkpoint holds RUN_FILE: which systems are finished, which one is in training, and the hash of the
state, by which half a file or a flipped bit is found before any worker reads it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyarrow import fs

from rayface.errors import RayfaceError
from rayface.training.checkpoint import STATE_FILE

RUN_FILE = "run.json"
PREFIX = "checkpoint_"  # of Ray Train's folders, whose names sort by their time


def write_run(folder: Path, finished: Mapping[str, str], current: str) -> None:
    """Complete a checkpoint whose state lies in `folder`."""
    content = {"finished": dict(finished), "current": current, "sha256": _hash(folder / STATE_FILE)}
    (folder / RUN_FILE).write_text(json.dumps(content))


def read_run(folder: Path) -> dict[str, Any]:
    """What `write_run` wrote. Raises RayfaceError where that or the state is missing, cut off or changed."""
    try:
        content: dict[str, Any] = json.loads((folder / RUN_FILE).read_text())
        found = _hash(folder / STATE_FILE)
        wanted = content.get("sha256", found)  # older versions wrote none
        content["finished"], content["current"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RayfaceError(f"it is not whole ({error!r})") from error
    if found != wanted:
        raise RayfaceError(f"{STATE_FILE} is not what was written")
    return content


def checkpoint_names(filesystem: fs.FileSystem, run_folder: str) -> list[str]:
    """Names of the folders of a run's checkpoints, oldest first; a run that does not exist has none."""
    held = filesystem.get_file_info(fs.FileSelector(run_folder, allow_not_found=True))
    return sorted(info.base_name for info in held if info.base_name.startswith(PREFIX))


def newest_whole(filesystem: fs.FileSystem, latest: str, into: Path) -> str:
    """Copy the newest whole checkpoint into the empty folder `into`; its path.

    `latest` is the path of the newest complete one by Ray Train's account; folders after it were never finished.
    Raises RayfaceError when no checkpoint of the run is whole.
    """
    run_folder, _, newest = latest.rpartition("/")
    names = reversed(checkpoint_names(filesystem, run_folder))
    return _first_whole(filesystem, [f"{run_folder}/{name}" for name in names if name <= newest], into)


def _first_whole(filesystem: fs.FileSystem, paths: Sequence[str], into: Path) -> str:
    faults = []
    for path in paths:
        for file in into.iterdir():
            file.unlink()
        try:
            fs.copy_files(path, str(into), source_filesystem=filesystem)
            read_run(into)
        except (FileNotFoundError, RayfaceError) as error:  # storage that cannot be reached is no broken checkpoint
            faults.append(f"{path}: {error}")
            continue
        for fault in faults:
            print(f"checkpoint {fault}; going on from the older {path}", flush=True)
        return path
    raise RayfaceError(
        f"no checkpoint of this run can be read ({'; '.join(faults)}); choose another --name to start anew",
        kind="unreadable",
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
