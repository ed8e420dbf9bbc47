"""Long work as jobs: submitted, asked about, fetched, cancelled. In memory only; no Ray and no torch in here."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rayface import metrics
from rayface.errors import RayfaceError
from serve import problems
from serve.answers import Json, Outcome, settle

STATUSES = ("queued", "running", "done", "failed", "cancelled")


@dataclass(frozen=True)
class JobRequest:
    """What a client asked for, in plain values: a replica that holds jobs need not load what works on them."""

    request_id: str
    owner: str  # name of the client's key, "" without keys
    photos: tuple[bytes, ...]
    steps: list[str]
    params: dict[str, Any]  # fields of rayface.work.Params
    format: str
    quality: int
    mixed: bool  # the report is wanted with the image


@dataclass(frozen=True)
class JobResult:
    """How a job stands, and what became of its photos (None: not done yet)."""

    request: JobRequest  # without its photos
    status: str
    outcomes: list[Outcome | None]


@dataclass(frozen=True)
class JobLimits:
    """What all jobs together may take."""

    running: int  # photos of jobs worked on at a time
    count: int  # jobs held, finished ones included
    bytes: int  # photos and results held
    seconds: float  # how long a finished job is kept
    retry_after: int


@dataclass
class Job:
    """One job from its submission until it is forgotten."""

    identifier: str
    request: JobRequest
    photos: list[bytes]
    outcomes: list[Outcome | None]
    status: str = "queued"
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: datetime | None = None
    finished: datetime | None = None
    task: asyncio.Task[None] | None = None

    @property
    def held(self) -> int:
        """Bytes of photos and results."""
        photos = sum(map(len, self.photos)) + _size_of(self.request.params)
        return photos + sum(len(item.image or b"") for item in self.outcomes if item)


def _size_of(params: dict[str, Any]) -> int:
    """Bytes of the donor's face, where there is one."""
    return 0 if params.get("donor") is None else int(params["donor"].nbytes)


Run = Callable[[JobRequest, bytes], Awaitable[tuple[bytes, Json]]]


class JobQueue:
    """Runs jobs by `run(request, photo)`, which gives image and report, and keeps their results for a while.

    Where there is no room, finished jobs are forgotten before their time, the oldest first; if even that does not
    help, new ones are refused.
    """

    def __init__(self, run: Run, limits: JobLimits) -> None:
        self._run, self._limits = run, limits
        self._slots = asyncio.Semaphore(limits.running)
        self._jobs: dict[str, Job] = {}  # in the order of their submission
        self._tell()

    def submit(self, request: JobRequest) -> Json:
        """The new job's status. Raises Overloaded, and RayfaceError (413) for photos that never fit."""
        size = sum(map(len, request.photos)) + _size_of(request.params)
        if size > self._limits.bytes:
            raise RayfaceError(
                f"The photos have {size} bytes; jobs may hold {self._limits.bytes}. Send fewer or smaller ones.",
                status=413,
                kind="image-too-large",
            )
        if not self._make_room(1, size):
            metrics.REFUSED.record(1, reason="jobs")
            raise problems.Overloaded(self._limits.retry_after)
        photos = list(request.photos)
        bare = JobRequest(**{**vars(request), "photos": ()})  # photos are let go one by one
        job = Job(secrets.token_urlsafe(24), bare, photos, [None] * len(photos))
        self._jobs[job.identifier] = job
        job.task = asyncio.create_task(self._work(job))
        self._tell()
        return self._told(job)

    def status(self, owner: str, identifier: str) -> Json | None:
        """The status of a job as JSON; None where `owner` has no such job."""
        job = self._find(owner, identifier)
        return None if job is None else self._told(job)

    def result(self, owner: str, identifier: str) -> JobResult | None:
        """What became of the photos of a job; None where `owner` has no such job."""
        job = self._find(owner, identifier)
        return None if job is None else JobResult(job.request, job.status, list(job.outcomes))

    def cancel(self, owner: str, identifier: str) -> bool:
        """Stop a job, or forget a finished one; False where `owner` has no such job."""
        job = self._find(owner, identifier)
        if job is None:
            return False
        if job.finished:
            self._forget(identifier)
        else:
            assert job.task is not None
            job.task.cancel()
            self._finish(job, "cancelled")
        return True

    async def _work(self, job: Job) -> None:
        await asyncio.gather(*(self._photo(job, index) for index in range(len(job.photos))))
        went_well = any(outcome is not None and outcome.image is not None for outcome in job.outcomes)
        self._finish(job, "done" if went_well else "failed")

    async def _photo(self, job: Job, index: int) -> None:
        async with self._slots:
            if job.started is None:
                job.status, job.started = "running", datetime.now(UTC)
                self._tell()
            work = self._run(job.request, job.photos[index])
            outcome = await settle(work, job.request.request_id, time.perf_counter())
        job.photos[index] = b""
        if not self._make_room(0, len(outcome.image or b"")):
            error = RayfaceError(
                "There is no memory left for the result; fetch and delete other jobs, or ask for format=jpeg.",
                status=507,
                kind="no-room",
            )
            outcome = Outcome(problem=problems.of(error, job.request.request_id))
        job.outcomes[index] = outcome

    def _finish(self, job: Job, status: str) -> None:
        job.status, job.finished = status, datetime.now(UTC)
        job.photos = []
        job.request = replace(job.request, params={**job.request.params, "donor": None})
        if status == "cancelled":
            job.outcomes = [None] * len(job.outcomes)
        asyncio.get_running_loop().call_later(self._limits.seconds, self._forget, job.identifier)
        self._tell()

    def _forget(self, identifier: str) -> None:
        self._jobs.pop(identifier, None)
        self._tell()

    def _tell(self) -> None:
        """How many jobs are held, by status, to whoever watches."""
        counts = Counter(job.status for job in self._jobs.values())
        for status in STATUSES:
            metrics.JOBS.record(counts[status], status=status)

    def _make_room(self, count: int, size: int) -> bool:
        """Whether `count` more jobs and `size` more bytes fit, once finished jobs (the oldest first) are forgotten."""
        finished = [job for job in self._jobs.values() if job.finished]
        while True:
            held = sum(job.held for job in self._jobs.values())
            if len(self._jobs) + count <= self._limits.count and held + size <= self._limits.bytes:
                return True
            if not finished:
                return False
            del self._jobs[finished.pop(0).identifier]

    def _find(self, owner: str, identifier: str) -> Job | None:
        job = self._jobs.get(identifier)
        return job if job is not None and job.request.owner == owner else None

    def _told(self, job: Job) -> Json:
        expires = job.finished and job.finished + timedelta(seconds=self._limits.seconds)
        times = {"created": job.created, "started": job.started, "finished": job.finished, "expires": expires}
        return {
            "id": job.identifier,
            "status": job.status,
            "progress": sum(outcome is not None for outcome in job.outcomes) / len(job.outcomes),
            **{name: time and time.isoformat() for name, time in times.items()},
            "photos": [outcome.told if outcome else {} for outcome in job.outcomes],
        }
