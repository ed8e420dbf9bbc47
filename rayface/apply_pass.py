"""`rayface apply --workers N`: a folder or a bucket on the Ray cluster; a pass that was stopped goes on.

OUTPUT/.rayface-apply/plan.json            what is being made of what
OUTPUT/.rayface-apply/reports-00012.jsonl  a finished chunk of photos, a line for each
OUTPUT/reports.jsonl                       all of them, at the end; the folder above is then deleted
"""

import dataclasses
import hashlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pyarrow import fs

from rayface import storage
from rayface.apply import Application, list_photos, paths, read_donor
from rayface.credentials import CredentialSettings
from rayface.data.passes import Tell, as_value, claim, run_pass
from rayface.errors import RayfaceError
from rayface.store import ModelStore, open_store

PROGRESS = ".rayface-apply"
PLAN = "plan.json"
REPORTS = "reports.jsonl"
CHUNK = 32  # photos that are lost, at most, for each process that dies


def apply_to_all(
    application: Application,
    source: str,
    target: str,
    store: ModelStore,
    workers: int | None = None,
    gpu: bool = False,
    commercial_only: bool = False,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Every photo of the folder or bucket `source` into `target`, with `workers` processes (None: one a CPU or GPU).

    The same call again goes on where a stopped one was. Gives photos, failed, faces, changed, reports (their file)
    and seconds. Raises RayfaceError, before any work, for bad parameters, for a source without photos and for a target
    that was begun with others; later where results cannot be written.
    """
    began = time.monotonic()
    tell = tell or (lambda _: None)
    source, target = storage.absolute(str(source)).rstrip("/"), storage.absolute(str(target)).rstrip("/")
    photos = list_photos(source, target)
    pinned = pinned_models(application, store)
    plan = {
        "source": _digest(photos), "photos": len(photos), "steps": list(application.steps),
        "settings": application.settings(), "models": pinned, "store": storage.absolute(store.uri),
        "donor": _donor_digest(application),
    }  # fmt: skip
    application.prepare(store)  # what is wrong with it is said before anything starts
    filesystem, folder = storage.open_filesystem(target)
    progress = f"{folder}/{PROGRESS}"
    claim(filesystem, progress, plan, PLAN)
    task = {
        "steps": list(application.steps), "assignments": _absolute_donor(application),
        "models": [f"{stage}={ref}" for stage, ref in pinned.items()], "store": storage.absolute(store.uri),
        "credentials": dataclasses.asdict(application.credentials.absolute()),  # the files must be on all nodes
        "commercial_only": commercial_only, "device": "cuda" if gpu else "cpu", "source": source, "target": target,
    }  # fmt: skip
    names = [name for name, _ in photos]
    chunks = {_chunk_name(start): names[start : start + CHUNK] for start in range(0, len(names), CHUNK)}
    held = {info.base_name for info in filesystem.get_file_info(fs.FileSelector(progress))}
    todo = [
        {"chunk": name, "names": json.dumps(part), "task": json.dumps(task)}
        for name, part in chunks.items()
        if name not in held
    ]
    if len(todo) < len(chunks):
        tell(f"{len(chunks) - len(todo)} of {len(chunks)} chunks of photos are done already")
    if todo:
        total = sum(len(chunks[chunk["chunk"]]) for chunk in todo)
        run_pass(Applier, todo, total, "photos", tell, workers, gpu)
    try:
        counts = _gather(filesystem, folder, list(chunks))
        for name in chunks:  # the plan last: reports without one would be taken for those of another pass
            filesystem.delete_file(f"{progress}/{name}")
        filesystem.delete_dir(progress)
    except OSError as error:
        raise RayfaceError(
            f"the reports in {target} cannot be put together ({error}); OUTPUT must be a folder that all nodes share, "
            "with room; the same command goes on",
            kind="unwritable",
        ) from error
    return {**counts, "reports": f"{target}/{REPORTS}", "seconds": round(time.monotonic() - began, 2)}


def pinned_models(application: Application, store: ModelStore) -> dict[str, str]:
    """name@version of every stage's model: a pass that goes on a day later must not meet newer ones."""
    from rayface.guard import choose_guard
    from rayface.pipeline import SWAP, SWAPS, choose_models, choose_swap_detector, face_steps

    chosen = application.chosen_models()
    refs = dict(choose_models(store, application.steps, chosen))
    if face_steps(application.steps):
        recogniser, _ = choose_guard(store, chosen, *application.guard())
        refs |= {"identify": recogniser} if recogniser else {}
        judge = choose_swap_detector(store, chosen) if SWAP in application.steps else ""
        refs |= {SWAPS: judge} if judge else {}
    return {stage: _pinned(store, ref) for stage, ref in refs.items()}


def _pinned(store: ModelStore, ref: str) -> str:
    if ":" in ref:
        return ref
    if "/" in ref:  # a model's folder; workers run in others
        return storage.absolute(ref)
    info = store.info(ref)
    return f"{info['name']}@{info['version']}"


def _donor_digest(application: Application) -> str:
    """Of the donor's photo; "" without one. Another one under the same name is another pass."""
    donor = application.settings().get("donor")
    return hashlib.blake2b(read_donor(donor), digest_size=16).hexdigest() if donor else ""


def _absolute_donor(application: Application) -> list[str]:
    """The assignments, the donor's path as it is for workers too, which run in other folders."""
    settings = application.settings()
    if "donor" in settings:
        settings["donor"] = storage.absolute(settings["donor"])
    return [f"{key}={value}" for key, value in settings.items()]


def _chunk_name(start: int) -> str:
    return f"reports-{start // CHUNK:06d}.jsonl"


def _digest(photos: Sequence[tuple[str, int]]) -> str:
    """Changes when photos or their sizes change."""
    hashed = hashlib.blake2b(digest_size=16)
    for photo in photos:
        hashed.update(json.dumps(photo).encode())
    return hashed.hexdigest()


class Applier:
    """A process of the actor pool: works on one chunk of photos a call, and keeps its models."""

    def __init__(self) -> None:
        self.applied: Any = None

    def __call__(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """`chunk`: chunk (the name of its reports), names (JSON) and task (JSON, as `apply_to_all` makes it)."""
        task = json.loads(chunk["task"])
        names = json.loads(chunk["names"])
        try:
            if self.applied is None:
                store = open_store(task["store"], task["commercial_only"])
                application = Application(
                    task["steps"], task["assignments"], task["models"], CredentialSettings(**task["credentials"])
                )
                self.applied = application.prepare(store, task["device"])
            reports = [self.applied.one_of_many(*paths(task["source"], task["target"], name)) for name in names]
            _write_reports(reports, task["target"], chunk["chunk"])
        except RayfaceError as error:
            return {"done": 0, "faces": 0, "error": as_value(error)}
        return {"done": len(names), "faces": sum(len(report.get("faces", ())) for report in reports), "error": ""}


def _write_reports(reports: Sequence[Mapping[str, Any]], target: str, name: str) -> None:
    filesystem, folder = storage.open_filesystem(f"{target}/{PROGRESS}")
    lines = "".join(json.dumps(report) + "\n" for report in reports)
    storage.write_bytes(lines.encode(), f"{folder}/{name}", filesystem)


def _gather(filesystem: fs.FileSystem, folder: str, chunks: Sequence[str]) -> dict[str, int]:
    """One file of all reports, a chunk in memory at a time, and what they add up to."""
    counts = {"photos": 0, "failed": 0, "faces": 0, "changed": 0}
    temporary = f"{folder}/.tmp-{uuid.uuid4().hex[:8]}-{REPORTS}"
    with filesystem.open_output_stream(temporary) as gathered:
        for name in chunks:
            with filesystem.open_input_stream(f"{folder}/{PROGRESS}/{name}") as stream:
                content = stream.read()
            gathered.write(content)
            for line in content.splitlines():
                report = json.loads(line)
                counts["photos"] += 1
                counts["failed"] += "error" in report
                counts["faces"] += len(report.get("faces", ()))
                counts["changed"] += report.get("changed", 0)
    filesystem.move(temporary, f"{folder}/{REPORTS}")
    return counts
