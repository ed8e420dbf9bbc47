"""What is remembered of requests for a few minutes, in memory. Its replica loads no torch: keep it so."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from serve import problems
from serve.answers import Json
from serve.jobs import JobLimits, JobQueue, JobRequest, JobResult


class ReportStore:
    """At most `count` reports in memory, each for `seconds`; the oldest go first."""

    def __init__(self, seconds: float, count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._count, self._clock = seconds, count, clock
        self._held: OrderedDict[str, tuple[float, dict[str, Any]]] = OrderedDict()

    def put(self, request_id: str, report: dict[str, Any]) -> None:
        self._held.pop(request_id, None)
        self._held[request_id] = (self._clock() + self._seconds, report)
        self._drop()

    def get(self, request_id: str) -> dict[str, Any] | None:
        self._drop()
        return self._held[request_id][1] if request_id in self._held else None

    def _drop(self) -> None:
        now = self._clock()
        while self._held and (len(self._held) > self._count or next(iter(self._held.values()))[0] <= now):
            self._held.popitem(last=False)


class Reports:
    """The reports of the last minutes and the jobs, in one replica, so that every ingress replica finds them.

    The work of a job is done by the ingress, whose replicas are many, drained and scaled. If this replica is lost, all
    reports and jobs are: clients get 404 and submit again.
    """

    def __init__(self, seconds: float, count: int, jobs: JobLimits) -> None:
        self._store = ReportStore(seconds, count)
        self._jobs = JobQueue(self._run, jobs)

    async def put(self, request_id: str, report: dict[str, Any]) -> None:
        self._store.put(request_id, report)

    async def get(self, request_id: str) -> dict[str, Any] | None:
        return self._store.get(request_id)

    async def submit(self, request: JobRequest) -> Json:
        return self._jobs.submit(request)

    async def job(self, owner: str, identifier: str) -> Json | None:
        return self._jobs.status(owner, identifier)

    async def job_result(self, owner: str, identifier: str) -> JobResult | None:
        return self._jobs.result(owner, identifier)

    async def cancel_job(self, owner: str, identifier: str) -> bool:
        return self._jobs.cancel(owner, identifier)

    async def _run(self, request: JobRequest, photo: bytes) -> tuple[bytes, Json]:
        from ray.exceptions import RayActorError, RayTaskError

        try:
            try:
                return await self._ask_ingress(request, photo)
            except RayActorError:  # a replica was lost with the photo: the job was accepted, so once more
                return await self._ask_ingress(request, photo)
        except RayTaskError as error:
            raise problems.cause(error) or error from error

    async def _ask_ingress(self, request: JobRequest, photo: bytes) -> tuple[bytes, Json]:
        from ray import serve

        ingress = serve.get_deployment_handle("ingress", serve.get_replica_context().app_name)
        response = ingress.process_job.remote(request, photo)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()  # and with it what the ingress has begun
            raise
