"""One pass of Ray Data over chunks of work, told about as it goes, and the plan that a resumed one is held against."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pyarrow import fs

from rayface import storage
from rayface.data import shards
from rayface.errors import RayfaceError
from rayface.ray_session import connect

_TELL_SECONDS = 5.0

Tell = Callable[[str], None]
Chunk = dict[str, Any]


def claim(filesystem: fs.FileSystem, folder: str, plan: Mapping[str, Any], file: str) -> None:
    """Write down in `folder`/`file` what is being made, or check that what is there was begun with the same plan.

    Raises RayfaceError when the folder holds something else, naming what differs, or cannot be written.
    """
    try:
        with filesystem.open_input_stream(f"{folder}/{file}") as stream:
            old = json.loads(stream.read())
    except FileNotFoundError:
        held = [info.base_name for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))]
        if shards.MANIFEST in held or any(name.endswith(".parquet") for name in held):
            raise RayfaceError(
                f"{folder} holds another data set; choose another folder or delete it.",
                status=409,
                kind="dataset-exists",
            ) from None
        storage.write_bytes(json.dumps(plan, indent=1).encode(), f"{folder}/{file}", filesystem)
        return
    except (OSError, ValueError) as error:
        raise RayfaceError(
            f"{folder} cannot be written to or gone on with ({error}); choose another folder.", kind="unwritable"
        ) from error
    changed = [f"{key} ({old.get(key)} then, {value} now)" for key, value in plan.items() if old.get(key) != value]
    if changed:
        raise RayfaceError(
            f"{folder} was begun with other photos or options: {', '.join(changed)}. Use the same ones to go on, "
            "choose another folder, or delete it ('source' is a digest of the photos, their sizes and labels).",
            status=409,
            kind="dataset-exists",
        )


def run_pass(
    work: Any,
    chunks: Sequence[Chunk],
    total: int,
    what: str,
    tell: Tell,
    workers: int | None = None,
    gpu: bool = False,
) -> None:
    """Give each of `chunks` to `work` on the Ray cluster, with at most `workers` at once (default: all CPUs).

    `work` is a function, or a class that is made once in each process of an actor pool (to hold models)
    and then called; `gpu` gives each of those a GPU. It returns `done` (of the `total` things that are
    counted, `what` names them), `faces` and `error`: "" or `as_value` of a RayfaceError, which is raised here.
    """
    import ray.data

    connect(quiet=True)
    # The driver tells the progress itself; warnings here are about bars and logs.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.from_items(list(chunks), override_num_blocks=len(chunks))
    if isinstance(work, type):
        units = ray.cluster_resources().get("GPU" if gpu else "CPU", 0)
        if units < 1:
            missing = "GPU; leave --gpu out" if gpu else "CPU for work (the head has none)"
            raise RayfaceError(f"The Ray cluster has no {missing}, or add a node with one.", kind="no-gpu")
        size = max(1, min(workers or int(units), int(units), len(chunks)))
        pool = ray.data.ActorPoolStrategy(size=size)
        results = rows.map(work, compute=pool, num_cpus=1, num_gpus=1 if gpu else None)
    else:
        results = rows.map(work, num_cpus=1, concurrency=workers)
    for line in _progress(results.iter_rows(), total, what):
        tell(line)


def as_value(error: RayfaceError) -> str:
    """An error to hand over as a result: Ray would wrap it in one of its own."""
    return json.dumps([str(error), error.status, error.kind])


def _progress(results: Iterable[Mapping[str, Any]], total: int, what: str) -> Iterator[str]:
    """Lines about how far it is, while results come; the first error stops."""
    began = told = time.monotonic()
    done = faces = 0
    for result in results:
        if result["error"]:
            message, status, kind = json.loads(result["error"])
            raise RayfaceError(message, status=status, kind=kind)
        done += result["done"]
        faces += result["faces"]
        now = time.monotonic()
        if now - told >= _TELL_SECONDS or done == total:
            told = now
            rate = done / (now - began)
            yield f"{done} of {total} {what}, {faces} faces, {rate:.0f}/s, {(total - done) / rate:.0f} s left"
