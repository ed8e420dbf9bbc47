"""Load on an HTTP service, closed and open loop, and what its processes use meanwhile."""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import aiohttp

TICKS = 100  # of /proc/PID/stat a second (USER_HZ)


@dataclass
class Samples:
    """One round: seconds of each answered request, how many were refused or failed, and the whole time."""

    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_megabytes: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Milliseconds; NaN without an answer."""
        return float(np.percentile(self.latencies, percent) * 1000) if self.latencies else float("nan")

    def merged(self, other: "Samples") -> "Samples":
        return Samples(
            self.latencies + other.latencies,
            self.refused + other.refused,
            self.failed + other.failed,
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_megabytes, other.peak_megabytes),
        )


class Client:
    """Posts one photo, as a body or as the file `image` of a form, and notes how it went."""

    def __init__(self, url: str, photo: bytes, form: bool = False) -> None:
        self.url, self.photo, self.form = url, photo, form

    async def post(self, session: "aiohttp.ClientSession", samples: Samples) -> bytes:
        import aiohttp

        body: bytes | aiohttp.FormData = self.photo
        headers = {"content-type": "image/jpeg", "accept": "image/jpeg"}
        if self.form:
            body, headers = aiohttp.FormData(), {}
            body.add_field("image", self.photo, filename="photo.jpg", content_type="image/jpeg")
        started = time.perf_counter()
        try:
            async with session.post(self.url, data=body, headers=headers) as answer:
                made = await answer.read()
                status = answer.status
        except aiohttp.ClientError:
            status, made = 0, b""
        if status == 200:
            samples.latencies.append(time.perf_counter() - started)
        elif status in (429, 503):
            samples.refused += 1
        else:
            samples.failed += 1
        return made

    async def once(self) -> bytes:
        async with _session() as session:
            return await self.post(session, Samples())


async def closed_loop(client: Client, concurrency: int, seconds: float) -> Samples:
    """`concurrency` clients, each of which posts again as soon as it has its answer."""
    samples = Samples()
    started = time.perf_counter()

    async def post_again_and_again(session: "aiohttp.ClientSession") -> None:
        while time.perf_counter() < started + seconds:
            await client.post(session, samples)

    async with _session() as session:
        await asyncio.gather(*(post_again_and_again(session) for _ in range(concurrency)))
    samples.seconds = time.perf_counter() - started
    return samples


async def open_loop(client: Client, rate: float, seconds: float, seed: int) -> Samples:
    """Requests at random moments (Poisson), `rate` a second on average, whether or not the ones before are done."""
    samples, draws = Samples(), random.Random(seed)
    started = time.perf_counter()
    async with _session() as session, asyncio.TaskGroup() as tasks:
        at = 0.0
        while (at := at + draws.expovariate(rate)) < seconds:
            await asyncio.sleep(max(0.0, started + at - time.perf_counter()))
            tasks.create_task(client.post(session, samples))
    samples.seconds = time.perf_counter() - started
    return samples


def _session() -> "aiohttp.ClientSession":
    import aiohttp

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=300))


def processes(root: int) -> list[int]:
    """`root` and all that descend from it, by /proc."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def cpu_seconds(root: int) -> float:
    """CPU time that `root`, its descendants and their ended children have used."""
    total = 0
    for pid in processes(root):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += sum(int(value) for value in fields[11:15])
    return total / TICKS


def memory_megabytes(root: int) -> float:
    """Proportional set size of `root` and its descendants: shared pages (the object store) count once."""
    total = 0
    for pid in processes(root):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def watched(root: int, work: Callable[[], Samples], every: float = 2.0) -> Samples:
    """`work`, with the CPU time and the peak memory of a process tree while it ran."""
    done, peak = threading.Event(), [memory_megabytes(root)]

    def watch() -> None:
        while not done.wait(every):
            peak[0] = max(peak[0], memory_megabytes(root))

    watcher = threading.Thread(target=watch)
    before = cpu_seconds(root)
    watcher.start()
    try:
        samples = work()
    finally:
        done.set()
        watcher.join()
    samples.cpu_seconds = cpu_seconds(root) - before
    samples.peak_megabytes = peak[0]
    return samples
