"""A client of the HTTP service (docs/serving.md). Needs httpx; imports neither torch nor ray.

from rayface.client import Client

with Client("http://127.0.0.1:8000") as client:
    done = client.enhance("photo.jpg", strength=0.8)
    Path("enhanced.png").write_bytes(done.image)
    print(done.report["changed"], "faces changed")
"""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from rayface.errors import RayfaceError

if TYPE_CHECKING:
    import httpx

Json = dict[str, Any]
Photo = bytes | str | os.PathLike[str]  # encoded bytes, or the path of a file
Format = Literal["jpeg", "png", "webp"]
Box = Sequence[float]  # x0 y0 x1 y1
LONGEST_PAUSE_S = 30.0
KIND_PREFIX = "urn:rayface:problem:"
BUSY = (429, 503)
LOST = (500, 502, 504)  # without a problem document: a proxy says that the process behind it went away


class ServiceError(RayfaceError):
    """A problem document (RFC 9457) of the service: `status`, `kind`, `detail`, and `retry_after` in seconds."""

    def __init__(self, status: int, kind: str, detail: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {kind}: {detail}", status=status, kind=kind)
        self.detail = detail
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type["ServiceError"], tuple[Any, ...]]:
        return ServiceError, (self.status, self.kind, self.detail, self.retry_after)

    @classmethod
    def of(cls, problem: Mapping[str, Any], retry_after: float | None = None) -> "ServiceError":
        """The error that a problem document describes."""
        kind = str(problem.get("type", "")).removeprefix(KIND_PREFIX)
        return cls(int(problem.get("status", 0)), kind, str(problem.get("detail", "")), retry_after)


@dataclass(frozen=True)
class Processed:
    """A processed photo: the encoded image, its media type and the report (docs/serving.md) as JSON values."""

    image: bytes
    media_type: str
    report: Json


@dataclass(frozen=True)
class Job:
    """How a job stands; times are ISO 8601 in UTC, None while not known."""

    id: str
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: float  # share of the photos that are done, with or without a result
    created: str
    started: str | None
    finished: str | None
    expires: str | None
    photos: list[Json]  # of each photo {"report": ...} or {"problem": ...} once it is done, {} before


class Client:
    """Asks the service at `url`.

    `timeout`: seconds without an answer; `retries`: how often a request is sent again that was refused for now (503 or
    429; after the seconds that Retry-After names, 30 at most) or was lost with the process that worked on it. What the
    service refuses is raised as ServiceError, what does not reach it as an error of httpx.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 120.0, retries: int = 3) -> None:
        try:
            import httpx
        except ImportError as error:
            raise RayfaceError(
                "rayface.client needs httpx, which is not installed; pip install 'rayface[client]'."
            ) from error
        headers = {"x-api-key": api_key} if api_key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def process(self, photo: Photo, steps: str | Iterable[str], **options: Any) -> Processed:
        """Run `steps` on a photo and its faces.

        Options: strength (0 to 1), faces ("all", "largest" or "boxes"), boxes (x0 y0 x1 y1 of each, in pixels of the
        photo), scale (2 or 4), style (of `facial_hair`), add and
        remove (names, of `edit_attributes`), format ("jpeg", "png", "webp"), quality (1 to 100).
        """
        (outcome,) = _outcomes(self._post(_process(steps, options), [photo]))
        return _good(outcome)

    def process_many(
        self, photos: Sequence[Photo], steps: str | Iterable[str], **options: Any
    ) -> list[Processed | ServiceError]:
        """As `process`, several photos in one request: of each, in order, what became of it."""
        return _outcomes(self._post(_process(steps, options), photos))

    def enhance(self, photo: Photo, **options: Any) -> Processed:
        """Make the faces of a photo clearer; options as of `process`."""
        return self.process(photo, "enhance", **options)

    def beautify(self, photo: Photo, **options: Any) -> Processed:
        """Make the faces of a photo more attractive; options as of `process`."""
        return self.process(photo, "beautify", **options)

    def facial_hair(self, photo: Photo, style: str, **options: Any) -> Processed:
        """Give the faces of a photo facial hair: none, stubble, moustache, goatee or full; options as of `process`."""
        return self.process(photo, "facial_hair", style=style, **options)

    def edit_attributes(
        self, photo: Photo, add: Sequence[str] = (), remove: Sequence[str] = (), **options: Any
    ) -> Processed:
        """Give the faces of a photo attributes (names of CelebA's), or take them; options as of `process`."""
        return self.process(photo, "edit_attributes", add=add, remove=remove, **options)

    def swap(self, photo: Photo, donor: Photo, consent: bool, **options: Any) -> Processed:
        """Show the face of the photo `donor` on a photo's largest face.

        `consent`: whether the people in both agreed; without it the service refuses. Options as of `process`.
        """
        sent = {"image": _bytes(photo), "donor": _bytes(donor)}
        path = _process("swap", options if "boxes" in options else {"faces": "largest", **options})
        headers = {"accept": "multipart/mixed, application/json"}
        answer = self._ask("POST", path, files=sent, data={"consent": str(consent).lower()}, headers=headers)
        return _good(_outcomes(answer)[0])

    def detect(self, photo: Photo) -> Json:
        """Boxes, landmarks and scores of the faces in a photo."""
        return self._post("/v1/detect", [photo]).json()

    def parse(self, photo: Photo) -> Json:
        """A mask of class ids (`mask_png`, base64) of each face's crop, and the matrix from photo to crop."""
        return self._post("/v1/parse", [photo]).json()

    def detect_swap(self, photo: Photo) -> Json:
        """As `detect`, and of each face the probability that it was `swapped`; `threshold`: from which on it counts."""
        return self._post("/v1/detect-swap", [photo]).json()

    def submit(self, photos: Photo | Sequence[Photo], steps: str | Iterable[str], **options: Any) -> Job:
        """As `process` or `process_many`, but as a job: returns as soon as the service has the photos.

        Where the answer is lost with the process that had taken the photos, they are sent again, and there may be two
        jobs; the one that nobody asks about ends by itself.
        """
        several = [photos] if isinstance(photos, bytes | str | os.PathLike) else photos
        return _job(self._post(_process(steps, options), several, prefer="respond-async").json())

    def job(self, identifier: str) -> Job:
        """How a job stands."""
        return _job(self._get(f"/v1/jobs/{identifier}").json())

    def wait(self, identifier: str, timeout: float | None = None, pause_s: float = 0.5) -> Job:
        """The job once it is finished. Raises TimeoutError when it is not after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (job := self.job(identifier)).finished is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"Job {identifier} is {job.status} after {timeout:g} s.")
            time.sleep(pause_s)
        return job

    def result(self, identifier: str) -> list[Processed | ServiceError]:
        """What became of each photo of a finished job, in their order; the problem of a single one is raised."""
        return _outcomes(self._get(f"/v1/jobs/{identifier}/result"))

    def cancel(self, identifier: str) -> None:
        """Stop a job that is queued or running; forget one that is finished."""
        self._ask("DELETE", f"/v1/jobs/{identifier}")

    def report(self, request_id: str) -> Json:
        """The report of a request of the last minutes."""
        return self._get(f"/v1/reports/{request_id}").json()

    def models(self) -> list[Json]:
        """The models in use, their licences and terms."""
        return self._get("/v1/models").json()["models"]

    def health(self) -> Json:
        """`status`, "ok" or "degraded", and the state of every deployment."""
        return self._http.get("/healthz").json()

    def _get(self, path: str) -> "httpx.Response":
        return self._ask("GET", path)

    def _post(self, path: str, photos: Sequence[Photo], **headers: str) -> "httpx.Response":
        sent = [_bytes(photo) for photo in photos]
        headers["accept"] = "multipart/mixed, application/json"
        if len(sent) == 1:
            headers["content-type"] = "application/octet-stream"
            return self._ask("POST", path, content=sent[0], headers=headers)
        files = [("image", (f"photo-{index}", data)) for index, data in enumerate(sent)]
        return self._ask("POST", path, files=files, headers=headers)

    def _ask(self, method: str, path: str, **what: Any) -> "httpx.Response":
        import httpx

        error: Exception
        for attempt in range(self._retries + 1):
            pause = 1.0
            try:
                answer = self._http.request(method, path, **what)
            except (httpx.RemoteProtocolError, httpx.ReadError) as lost:  # it was on its way, and nothing came back
                error = lost
            else:
                if answer.is_success:
                    return answer
                error = _error(answer)
                if not (error.status in BUSY or (error.status in LOST and not error.kind)):
                    break
                pause = pause if error.retry_after is None else min(error.retry_after, LONGEST_PAUSE_S)
            if attempt < self._retries:
                time.sleep(pause)
        raise error


def _bytes(photo: Photo) -> bytes:
    return photo if isinstance(photo, bytes) else Path(photo).read_bytes()


def _process(steps: str | Iterable[str], options: Json) -> str:
    """Path and query of /v1/process."""
    import httpx

    if "donor" in options or "consent" in options:
        raise RayfaceError("donor and consent are given to Client.swap, which sends them as a form.")
    names = steps if isinstance(steps, str) else ",".join(steps)
    query = {"steps": names, **options}
    if boxes := query.get("boxes"):
        query["boxes"] = ";".join(",".join(f"{value:g}" for value in box) for box in boxes)
        query.setdefault("faces", "boxes")
    for key in ("add", "remove"):
        if key in query and not isinstance(query[key], str):
            query[key] = ",".join(query[key])
    return f"/v1/process?{httpx.QueryParams(query)}"


def _error(answer: "httpx.Response") -> ServiceError:
    """What a refusal says; one that comes from elsewhere (a proxy) has no problem document."""
    after = answer.headers.get("retry-after", "")
    retry_after = float(after) if after.isdigit() else None
    if answer.headers.get("content-type", "").startswith("application/problem+json"):
        return ServiceError.of(answer.json(), retry_after)
    return ServiceError(answer.status_code, "", answer.text[:200], retry_after)


def _job(told: Json) -> Job:
    return Job(**{item.name: told[item.name] for item in fields(Job)})


def _good(outcome: Processed | ServiceError) -> Processed:
    if isinstance(outcome, ServiceError):
        raise outcome
    return outcome


def _outcomes(answer: "httpx.Response") -> list[Processed | ServiceError]:
    """The photos of an answer: images followed by their reports, and problems."""
    found: list[Processed | ServiceError] = []
    image, media_type = b"", ""
    for kind, data in _parts(answer.headers["content-type"], answer.content):
        if kind == "application/problem+json":
            found.append(ServiceError.of(json.loads(data)))
        elif kind == "application/json":
            found.append(Processed(image, media_type, json.loads(data)))
        else:
            image, media_type = data, kind
    return found


def _parts(content_type: str, body: bytes) -> Iterable[tuple[str, bytes]]:
    """(media type, content) of the parts of a multipart body (RFC 2046, 5.1)."""
    boundary = content_type.partition('boundary="')[2].partition('"')[0].encode()
    for part in body.split(b"--" + boundary)[1:-1]:  # before the first and after the last one there is nothing
        head, _, data = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        lines = (line.partition(":") for line in head.decode("latin-1").split("\r\n"))
        headers = {name.strip().lower(): value.strip() for name, _, value in lines}
        yield headers["content-type"], data.removesuffix(b"\r\n")
