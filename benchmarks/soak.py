"""Mixed load on the service for a long time: what is wrong gets a clear 4xx or 503, what is right is answered.

    python -m benchmarks.soak --photos DIR [--minutes 15] [--clients 6] [--out soak.json]

Starts `python -m serve` (with `--config FILE` if given) and sends it photos, several at once, jobs, broken and empty
files, bombs, bodies that are too large, wrong parameters, slow uploads, and clients that go away before or after their
photo has arrived. Ends with 1 if an answer was not the expected one, if a request that was accepted stayed without
answer, or if memory grew after the first quarter by more than `--growth` percent. `--photos`: pictures of one face
each.
"""

import argparse
import asyncio
import json
import random
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from aiohttp import ClientSession, ClientTimeout, FormData

from benchmarks.serve import http_variant, process
from benchmarks.serving.load import memory_megabytes
from benchmarks.serving.payloads import payloads
from serve.proxy import free_ports

ANSWER_SECONDS = 150  # no request may stay without an answer for longer
JPEG = {"content-type": "image/jpeg"}
BUSY = 503
BOMB_SIDE = 30_000  # px


def bomb() -> bytes:
    """A whole black PNG of 900 megapixels in some 100 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 1, 0, 0, 0, 0)  # 1 bit a pixel, grey
    rows = zlib.compress(bytes(BOMB_SIDE * (1 + BOMB_SIDE // 8)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@dataclass
class Found:
    """What happened so far."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of the photos that were processed
    megabytes: list[float] = field(default_factory=list)


@dataclass
class Visitor:
    """One client: what it sends."""

    session: ClientSession
    url: str
    photos: dict[str, bytes]
    bomb: bytes
    found: Found
    draws: random.Random

    async def expect(self, kind: str, wanted: set[int], request: Awaitable[Any]) -> tuple[int, bytes]:
        """Send; a status that is not `wanted` nor a 503 that says when to come again is a fault."""
        async with await request as answer:
            body = await answer.read()
        status = answer.status
        self.found.statuses[kind, status] += 1
        if status >= 400 and answer.content_type != "application/problem+json":
            self.found.faults.append(f"{kind}: {status} is no problem document: {body[:200]!r}")
        if status == BUSY and not answer.headers.get("retry-after"):
            self.found.faults.append(f"{kind}: 503 without Retry-After: {body[:200]!r}")
        if status not in wanted | {BUSY}:
            self.found.faults.append(f"{kind}: {status}, expected {sorted(wanted)}: {body[:300]!r}")
        return status, body

    async def post(self, kind: str, path: str, body: Any, *wanted: int, headers: Any = JPEG) -> tuple[int, bytes]:
        return await self.expect(kind, set(wanted), self.session.post(self.url + path, data=body, headers=headers))

    async def photo(self) -> None:
        name = self.draws.choice(list(self.photos))
        started = time.perf_counter()
        status, body = await self.post(f"photo {name}", "/v1/enhance", self.photos[name], 200)
        if status == 200:
            self.found.seconds.append(time.perf_counter() - started)
            if not body.startswith(b"\xff\xd8"):
                self.found.faults.append(f"photo {name}: 200 without a JPEG")

    async def faces(self) -> None:
        path = self.draws.choice(("/v1/detect", "/v1/parse"))
        await self.post(path, path, self.photos["640"], 200)

    async def several(self) -> None:
        form = FormData()
        for number, body in enumerate((self.photos["640"], b"not a picture", self.photos["640"])):
            form.add_field("image", body, filename=f"{number}.jpg", content_type="image/jpeg")
        status, body = await self.post("several photos", "/v1/enhance", form, 200, headers={})
        if status == 200 and body.count(b"application/problem+json") != 1:
            self.found.faults.append("several photos: not exactly one of three is a problem")

    async def job(self) -> None:
        headers = {**JPEG, "prefer": "respond-async"}
        status, body = await self.post("job", "/v1/enhance", self.photos["640"], 202, headers=headers)
        if status != 202:
            return
        path = f"/v1/jobs/{json.loads(body)['id']}"
        for _ in range(ANSWER_SECONDS):
            _, body = await self.expect("job status", {200}, self.session.get(self.url + path))
            if json.loads(body)["status"] not in ("queued", "running"):
                break
            await asyncio.sleep(1)
        await self.expect("job result", {200}, self.session.get(f"{self.url}{path}/result"))

    async def broken(self) -> None:
        cut = self.photos["640"][: self.draws.randrange(1, len(self.photos["640"]) // 2)]
        body, wanted = self.draws.choice(
            [
                (b"GIF89a" + bytes(200), {415, 422}), (b"", {400}), (self.bomb, {413}), (cut, {400, 415, 422}),
                (bytes(21 * 1024 * 1024), {413}),
            ]
        )  # fmt: skip
        with suppress(aiohttp.ClientOSError):  # a refusal may come while the large body is still on its way
            await self.post("broken picture", "/v1/enhance", body, *wanted)

    async def wrong(self) -> None:
        path, wanted = self.draws.choice(
            [("/v1/process?steps=nothing", 400), ("/v1/enhance?strength=7", 422), ("/v1/nothing", 404)]
        )
        await self.post("wrong request", path, self.photos["640"], wanted)

    async def slow(self) -> None:
        async def crawl() -> AsyncIterator[bytes]:
            photo = self.photos["640"]
            for start in range(0, len(photo), len(photo) // 8 + 1):
                yield photo[start : start + len(photo) // 8 + 1]
                await asyncio.sleep(0.5)

        await self.post("slow upload", "/v1/enhance", crawl(), 200)

    async def leaves(self) -> None:
        """Goes away in the middle of its upload, or while its photo is worked on."""
        if self.draws.random() < 0.5:

            async def half() -> AsyncIterator[bytes]:
                yield self.photos["640"][:1000]
                await asyncio.sleep(0.2)
                raise ConnectionResetError

            body: Any = half()
        else:
            body = self.photos["1280x960"]
        with suppress(TimeoutError, ConnectionResetError, aiohttp.ClientError):
            timeout = ClientTimeout(total=self.draws.uniform(0.05, 0.5))
            async with self.session.post(self.url + "/v1/enhance", data=body, headers=JPEG, timeout=timeout):
                pass
        self.found.statuses["client that leaves", 0] += 1

    async def visit(self) -> None:
        kinds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (10, self.photo), (3, self.faces), (2, self.several), (2, self.job), (3, self.broken), (2, self.wrong),
            (1, self.slow), (3, self.leaves),
        ]  # fmt: skip
        chosen = self.draws.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])[0]
        try:
            await chosen()
        except Exception as error:
            self.found.faults.append(f"{chosen.__name__}: no answer ({error!r})")


async def soak(url: str, photos: dict[str, bytes], pid: int, minutes: float, clients: int) -> Found:
    found, bombed, end = Found(), bomb(), time.monotonic() + 60 * minutes

    async def come_again(seed: int) -> None:
        async with ClientSession(timeout=ClientTimeout(total=ANSWER_SECONDS)) as session:
            visitor = Visitor(session, url, photos, bombed, found, random.Random(seed))
            while time.monotonic() < end:
                await visitor.visit()

    async def watch() -> None:
        while time.monotonic() < end:
            found.megabytes.append(await asyncio.to_thread(memory_megabytes, pid))
            await asyncio.sleep(5)

    await asyncio.gather(watch(), *(come_again(seed) for seed in range(clients)))
    return found


def growth_percent(megabytes: list[float]) -> float:
    """By how much the last quarter's median is above that of the second quarter, the first being the warm-up."""
    quarter = len(megabytes) // 4
    return float(100 * (np.median(megabytes[-quarter:]) / np.median(megabytes[quarter : 2 * quarter]) - 1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--growth", type=float, default=5.0, help="percent of memory")
    parser.add_argument("--config")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    photos = payloads(options.photos, ["640", "1280x960", "12mp"])
    with ExitStack() as stack:
        (port,) = free_ports(1)
        command = [sys.executable, "-m", "serve", "--port", str(port)]
        child = stack.enter_context(process(command + (["--config", options.config] if options.config else [])))
        url = f"http://127.0.0.1:{port}"
        http_variant("rayface", child, url + "/v1/enhance")
        found = asyncio.run(soak(url, photos, child.pid, options.minutes, options.clients))
        alive = child.poll() is None
    report = {
        "minutes": options.minutes,
        "statuses": {f"{kind}: {status}": count for (kind, status), count in sorted(found.statuses.items())},
        "photo_seconds": {f"p{q}": round(float(np.percentile(found.seconds, q)), 3) for q in (50, 95, 99)},
        "megabytes": [round(value) for value in found.megabytes],
        "memory_growth_percent": round(growth_percent(found.megabytes), 2),
        "service_alive": alive,
        "faults": found.faults,
    }
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return int(bool(found.faults) or not alive or report["memory_growth_percent"] > options.growth)


if __name__ == "__main__":
    sys.exit(main())
