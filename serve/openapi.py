"""What the OpenAPI document says of bodies and answers; tests/serve/test_openapi.py holds the service against it."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired

from fastapi import Path
from pydantic import Field
from typing_extensions import TypedDict

from rayface.pipeline import SWAP
from rayface.work import Report
from serve import problems
from serve.negotiation import MEDIA, MIXED
from serve.settings import Settings
from serve.upload import FORM

Json = dict[str, Any]
Responses = dict[int | str, Json]
Identifier = Annotated[str, Path(pattern=r"^[\w.\-]{1,128}$")]

REASONS = {
    400: "A parameter, the form or the image is wrong or missing",
    403: "The people in the photos were not said to have agreed (only where faces are swapped)",
    401: "No API key, or an unknown one (only where the service asks for keys)",
    404: "There is no such thing, or this service does not offer it",
    406: "Accept names nothing that is offered",
    408: "The body did not arrive in time",
    409: "The job has no result: it is not done, or was cancelled",
    413: "Too many bytes or pixels",
    415: "The body is not an image of a known format",
    422: "A parameter is out of range, or the image is corrupt",
    500: "The service failed",
    503: "The service is busy: come back after `Retry-After` seconds",
    504: "The photo took too long",
    507: "There is no memory left for the result of the job",
}
RECEIVING = (400, 408, 413, 415, 422, 500, 503, 504)  # what every route with a photo may answer


@dataclass(kw_only=True)
class PhotoReport(Report):
    """The report of one photo as it leaves the service."""

    request_id: str
    signer: str  # whose certificate signed the result's content credentials


class Problem(TypedDict):
    """RFC 9457 problem details; `instance` is urn:rayface:request: and the request's x-request-id."""

    type: Annotated[str, Field(examples=["urn:rayface:problem:unknown-step"])]
    title: str
    status: int
    detail: str
    instance: str


class PhotoOutcome(TypedDict):
    """One of both, once the photo is done."""

    report: NotRequired[PhotoReport]
    problem: NotRequired[Problem]


class SeveralReports(TypedDict):
    """The reports of the photos of one request, in their order."""

    request_id: str
    photos: list[PhotoOutcome]


class Job(TypedDict):
    """A job; times are ISO 8601 in UTC."""

    id: str
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: float  # share of the photos that are done, with or without a result
    created: str
    started: str | None
    finished: str | None
    expires: str | None
    photos: list[PhotoOutcome]


class Face(TypedDict):
    """In pixels of the photo."""

    box: list[float]
    landmarks: list[list[float]]
    score: float
    size: float


class ParsedFace(Face):
    """`mask_png`: base64, PNG of class ids; `matrix`: from photo to crop, 2 x 3. Both of the first `max_faces`."""

    mask_png: NotRequired[str]
    matrix: NotRequired[list[list[float]]]


class Detected(TypedDict):
    width: int
    height: int
    models: dict[str, str]
    faces: list[Face]


class Parsed(TypedDict):
    width: int
    height: int
    models: dict[str, str]
    faces: list[ParsedFace]
    crop_size: int
    classes: list[str]


class JudgedFace(Face):
    """`swapped`: probability, of 0 to 1, that this is not the face that was photographed; of the first `max_faces`."""

    swapped: NotRequired[float]


class SwapsDetected(TypedDict):
    """From `threshold` on a face counts as swapped; `models` names the version that says so, as `detect_swap`."""

    width: int
    height: int
    models: dict[str, str]
    faces: list[JudgedFace]
    threshold: float


class Models(TypedDict):
    steps: list[str]
    models: list[dict[str, Any]]


class Health(TypedDict):
    status: Literal["ok", "degraded"]
    deployments: dict[str, str]


DONOR: Json = {  # of a form that swaps
    "donor": {"type": "string", "format": "binary", "description": "whose face is shown; counts as one of the photos"},
    "consent": {"type": "string", "enum": ["true"], "description": "the people in the photos agreed"},
}


def refusals(*statuses: int) -> Responses:
    """Answers that are problem documents."""
    found: Responses = {}
    for status in statuses:
        content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        found[status] = {"description": REASONS[status], "content": content}
        if status == 503:
            found[status]["headers"] = {"retry-after": {"schema": {"type": "integer"}, "description": "seconds"}}
    return found


def image_body(settings: Settings) -> Json:
    """The request body of every route that takes photos."""
    image = {"type": "string", "format": "binary"}
    most = min(settings.max_photos, settings.max_in_flight)
    photos = {
        "type": "array",
        "items": image,
        "minItems": 1,
        "maxItems": most,
        "description": f"a file for each photo, at most {most}",
    }
    form: Json = {"type": "object", "required": ["image"], "properties": {"image": photos}}
    if SWAP in settings.steps:
        form["properties"] |= DONOR
    content = {media: {"schema": image} for media in (*MEDIA.values(), "application/octet-stream")}
    return {"requestBody": {"required": True, "content": {**content, FORM: {"schema": form}}}}


def swap_body(settings: Settings) -> Json:
    """The request body of /v1/swap: a form, as it brings a second photo and says that people agreed."""
    form = image_body(settings)["requestBody"]["content"][FORM]["schema"]
    asked = {**form, "required": ["image", *DONOR], "properties": {**form["properties"], **DONOR}}
    return {"requestBody": {"required": True, "content": {FORM: {"schema": asked}}}}


def image_answer() -> Responses:
    """The answer of the routes that give images."""
    description = (
        "The processed photo. With `Accept: multipart/mixed`, and always for several photos, a multipart/mixed: of "
        "each photo in order its image and then its report as JSON. The parts of several photos are named image-0, "
        "report-0, image-1 ...; a photo that failed has one part, problem-N: a problem document with its own status."
    )
    return {
        200: {
            "description": description,
            "headers": {
                "x-request-id": {"schema": {"type": "string"}},
                "x-rayface-summary": {
                    "schema": {"type": "string"},
                    "description": "JSON: faces, changed, ms; for several photos also photos and failed",
                },
            },
            "content": {kind: {} for kind in (*MEDIA.values(), MIXED)},
        }
    }


def job_answer() -> Responses:
    """The answer to `Prefer: respond-async`."""
    return {
        202: {
            "description": "The work is a job now (only with `Prefer: respond-async`)",
            "model": Job,
            "headers": {
                "location": {"schema": {"type": "string"}, "description": "where the job is found"},
                "preference-applied": {"schema": {"type": "string"}},
            },
        }
    }
