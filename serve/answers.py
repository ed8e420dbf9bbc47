"""What a request is answered with: one image, or for several photos (and on request) multipart/mixed."""

import json
import time
import uuid
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Response

from serve import problems
from serve.negotiation import MIXED, Wanted

Json = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of one photo: image and report, or neither and a problem document."""

    image: bytes | None = None
    report: Json | None = None
    problem: Json | None = None

    @property
    def told(self) -> Json:
        """As JSON, without the image."""
        return {"problem": self.problem} if self.report is None else {"report": self.report}


@dataclass(frozen=True)
class Part:
    """One part of a multipart answer."""

    media_type: str
    data: bytes
    disposition: str = ""


def image_response(outcome: Outcome, want: Wanted) -> Response:
    """The image of a photo that went well; with its report where `want.mixed`."""
    assert outcome.image is not None
    assert outcome.report is not None
    body, media_type = outcome.image, want.media_type
    if want.mixed:
        report = Part("application/json", json.dumps(outcome.report).encode())
        body, media_type = multipart_mixed([Part(want.media_type, outcome.image), report])
    return Response(body, media_type=media_type, headers=_headers(_summary([outcome])))


def parts_response(outcomes: Sequence[Outcome], want: Wanted) -> Response:
    """Of each photo in order its image and its report, or its problem; 200 whatever became of them."""
    parts = []
    for index, outcome in enumerate(outcomes):
        if outcome.image is None:
            parts.append(_named("problem", index, problems.MEDIA_TYPE, json.dumps(outcome.problem).encode(), "json"))
        else:
            parts.append(_named("image", index, want.media_type, outcome.image, want.format))
            parts.append(_named("report", index, "application/json", json.dumps(outcome.report).encode(), "json"))
    body, media_type = multipart_mixed(parts)
    failed = sum(outcome.image is None for outcome in outcomes)
    summary = {"photos": len(outcomes), "failed": failed, **_summary(outcomes)}
    return Response(body, media_type=media_type, headers=_headers(summary))


def multipart_mixed(parts: Sequence[Part]) -> tuple[bytes, str]:
    """(body, content type) of `parts`."""
    boundary = uuid.uuid4().hex
    chunks = []
    for part in parts:
        head = f"--{boundary}\r\nContent-Type: {part.media_type}\r\nContent-Length: {len(part.data)}\r\n"
        if part.disposition:
            head += f"Content-Disposition: {part.disposition}\r\n"
        chunks += [head.encode(), b"\r\n", part.data, b"\r\n"]
    return b"".join([*chunks, f"--{boundary}--\r\n".encode()]), f'{MIXED}; boundary="{boundary}"'


def _named(kind: str, index: int, media_type: str, data: bytes, suffix: str) -> Part:
    name = f"{kind}-{index}"
    return Part(media_type, data, f'attachment; name="{name}"; filename="{name}.{suffix}"')


def _summary(outcomes: Sequence[Outcome]) -> Json:
    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    return {
        "faces": sum(len(report["faces"]) for report in reports),
        "changed": sum(report["changed"] for report in reports),
        "ms": round(max((report["timings_ms"]["total"] for report in reports), default=0)),
    }


def _headers(summary: Json) -> dict[str, str]:
    return {
        "x-rayface-summary": json.dumps(summary, separators=(",", ":")),
        "vary": "accept",
        "cache-control": "no-store",
    }


async def finish(work: Awaitable[tuple[bytes, Json]], request_id: str, started: float) -> Outcome:
    """The image and the completed report that `work` gives; `started` is by `time.perf_counter`."""
    image, report = await work
    report["timings_ms"]["total"] = round(1000 * (time.perf_counter() - started), 2)
    return Outcome(image, {"request_id": request_id, **report})


async def settle(work: Awaitable[tuple[bytes, Json]], request_id: str, started: float) -> Outcome:
    """As `finish`, but what goes wrong becomes a problem: one bad photo must not fail those beside it."""
    done = await problems.or_problem(finish(work, request_id, started), request_id)
    return done if isinstance(done, Outcome) else Outcome(problem=done)
