"""The HTTP interface: a FastAPI app over a `Service`, which the deployment `Ingress` is."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from rayface import metrics
from rayface.errors import RayfaceError
from rayface.pipeline import SWAP
from rayface.records import FACIAL_HAIR
from rayface.work import (
    Params,
    check_asked,
    check_steps,
    check_swap,
    of_the_donor,
    parse_boxes,
    parse_consent,
    parse_names,
)
from serve import openapi, problems
from serve.answers import Json, Outcome, finish, image_response, parts_response, settle
from serve.gate import Gate
from serve.job_routes import add_job_routes, submitted
from serve.jobs import JobRequest, JobResult
from serve.keys import key_needed
from serve.middleware import RequestContext
from serve.negotiation import wanted, wants_job
from serve.pages import add_pages
from serve.settings import Settings
from serve.upload import Received, check_photo, receive

WRONG_PHOTO = (400, 413, 415, 422)
FACE_STEPS = {
    "enhance": "Make the faces of photos clearer.",
    "beautify": "Make the faces of photos more attractive, and leave them who they are.",
}

logger = logging.getLogger("ray.serve")

Steps = Annotated[str, Query(description="steps in order, separated by commas", examples=["enhance"])]
Strength = Annotated[float, Query(ge=0, le=1, description="0 keeps the face, 1 is the full effect")]
Faces = Annotated[Literal["all", "largest", "boxes"], Query(description="which faces are processed")]
Boxes = Annotated[
    str,
    Query(
        description="with faces=boxes: x0,y0,x1,y1 in pixels of the upright photo, several separated by semicolons; a "
        "face whose middle lies in one of them is processed",
    ),
]
Scale = Annotated[Literal["2", "4"], Query(description="how many times larger `upscale` makes the photo")]
Style = Annotated[Literal[FACIAL_HAIR], Query(description="which facial hair `facial_hair` gives the faces")]  # type: ignore[valid-type]
Add = Annotated[
    str,
    Query(description="attributes that `edit_attributes` gives the faces, separated by commas", examples=["Smiling"]),
]
Remove = Annotated[str, Query(description="attributes that it takes from them", examples=["Eyeglasses"])]
Format = Annotated[Literal["jpeg", "png", "webp"] | None, Query(description="overrides Accept")]
Quality = Annotated[int, Query(ge=1, le=100, description="of JPEG and WebP")]
Prefer = Annotated[
    str | None,
    Header(
        description="`respond-async` (RFC 7240): the work becomes a job, and the answer is 202",
        examples=["respond-async"],
    ),
]


class Service(Protocol):
    """What the HTTP interface needs; `Ingress` does it with Ray Serve's deployments."""

    settings: Settings

    async def process(
        self, data: bytes, steps: list[str], params: Params, format: str, quality: int
    ) -> tuple[bytes, Json]: ...
    async def donor(self, data: bytes) -> np.ndarray: ...
    async def detect(self, data: bytes) -> Json: ...
    async def parse(self, data: bytes) -> Json: ...
    async def detect_swap(self, data: bytes) -> Json: ...
    async def keep_report(self, identifier: str, report: Json) -> None: ...
    async def report(self, identifier: str) -> Json | None: ...
    async def submit(self, request: JobRequest) -> Json: ...
    async def job(self, owner: str, identifier: str) -> Json | None: ...
    async def job_result(self, owner: str, identifier: str) -> JobResult | None: ...
    async def cancel_job(self, owner: str, identifier: str) -> bool: ...
    async def models(self) -> list[Json]: ...
    async def health(self) -> Json: ...


def create_app(service: Service) -> FastAPI:
    """The routes of SPEC F8 over `service`."""
    app = FastAPI(
        title="rayface",
        version="1",
        description="Face networks over HTTP. Errors are RFC 9457 problem documents.",
        docs_url=None,  # FastAPI's own page loads its scripts from elsewhere; page/docs.html needs no network
        redoc_url=None,
    )
    problems.install(app)
    app.add_middleware(RequestContext)
    keys = service.settings.api_keys
    guarded = APIRouter(
        prefix="/v1",
        dependencies=[Depends(key_needed(keys))] if keys else [],
        responses=openapi.refusals(401) if keys else {},
    )
    gate = Gate(service.settings.max_in_flight, service.settings.retry_after_s)
    _add_image_routes(guarded, service, gate)
    _add_face_routes(guarded, service, gate)
    add_job_routes(guarded, service)
    _add_json_routes(guarded, service)
    app.include_router(guarded)
    _add_health(app, service)
    add_pages(app)
    return app


def _add_image_routes(app: APIRouter, service: Service, gate: Gate) -> None:
    documented: Json = {
        "openapi_extra": openapi.image_body(service.settings),
        "responses": {**openapi.image_answer(), **openapi.job_answer(), **openapi.refusals(*openapi.RECEIVING, 406)},
        "response_class": Response,
    }
    answer = _image_answer(service, gate)

    refused = {"responses": {**documented["responses"], **openapi.refusals(403)}}

    @app.post("/process", **documented | refused)
    async def process(
        request: Request,
        steps: Steps,
        strength: Strength = 1.0,
        faces: Faces = "all",
        boxes: Boxes = "",
        scale: Scale = "2",
        style: Style | None = None,
        add: Add = "",
        remove: Remove = "",
        format: Format = None,
        quality: Quality = 92,
        prefer: Prefer = None,
    ) -> Response:
        """Run a chain of steps on photos and their faces."""
        names = [name.strip() for name in steps.split(",") if name.strip()]
        params = Params(
            strength, faces, int(scale), parse_boxes(boxes), style or "", parse_names(add), parse_names(remove)
        )
        return await answer(request, names, params, format, quality)

    for step, does in FACE_STEPS.items():
        app.post(f"/{step}", description=does, name=step, **documented)(_one_step(step, answer))

    @app.post("/facial-hair", **documented)
    async def facial_hair(
        request: Request,
        style: Style,
        strength: Strength = 1.0,
        faces: Faces = "all",
        boxes: Boxes = "",
        format: Format = None,
        quality: Quality = 92,
        prefer: Prefer = None,
    ) -> Response:
        """Give the faces of photos facial hair of a style, or take it off."""
        params = Params(strength, faces, boxes=parse_boxes(boxes), style=style)
        return await answer(request, ["facial_hair"], params, format, quality)

    @app.post("/attributes", **documented)
    async def attributes(
        request: Request,
        add: Add = "",
        remove: Remove = "",
        strength: Strength = 1.0,
        faces: Faces = "all",
        boxes: Boxes = "",
        format: Format = None,
        quality: Quality = 92,
        prefer: Prefer = None,
    ) -> Response:
        """Give the faces of photos attributes, or take them away: a search of seconds, best asked for as a job."""
        names = parse_names(add), parse_names(remove)
        params = Params(strength, faces, boxes=parse_boxes(boxes), add=names[0], remove=names[1])
        return await answer(request, ["edit_attributes"], params, format, quality)

    swapping = {
        "openapi_extra": openapi.swap_body(service.settings),
        "responses": {**documented["responses"], **openapi.refusals(403, 404)},
    }

    @app.post("/swap", **documented | swapping)
    async def swap(
        request: Request,
        strength: Strength = 1.0,
        faces: Faces = "largest",
        boxes: Boxes = "",
        format: Format = None,
        quality: Quality = 92,
        prefer: Prefer = None,
    ) -> Response:
        """Show the donor's face on the largest face of a photo, where the people in both agreed. Off by default."""
        if SWAP not in service.settings.steps:
            raise RayfaceError(
                "This service swaps no faces; whoever runs it may turn that on by adding swap to settings.steps.",
                status=404,
                kind="not-served",
            )
        return await answer(request, [SWAP], Params(strength, faces, boxes=parse_boxes(boxes)), format, quality)


def _one_step(step: str, answer: Callable[..., Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
    """The route that is named as a step about faces, and does that alone."""

    async def run(
        request: Request,
        strength: Strength = 1.0,
        faces: Faces = "all",
        boxes: Boxes = "",
        format: Format = None,
        quality: Quality = 92,
        prefer: Prefer = None,
    ) -> Response:
        params = Params(strength, faces, boxes=parse_boxes(boxes))
        return await answer(request, [step], params, format, quality)

    return run


def _image_answer(service: Service, gate: Gate) -> Callable[..., Awaitable[Response]]:
    """What the routes that give images have in common."""
    settings = service.settings

    async def answer(request: Request, names: list[str], params: Params, format: str | None, quality: int) -> Response:
        started, identifier = time.perf_counter(), request.state.request_id
        want = wanted(request.headers.get("accept", ""), format)
        steps = check_steps(names, settings.steps)
        check_asked(steps, params)

        async def process(photo: bytes) -> tuple[bytes, Json]:
            check_photo(photo, settings.limits)
            return await service.process(photo, steps, params, want.format, quality)

        with gate.request() as cover:
            received = await receive(request, settings, cover)
            photos = received.photos
            if received.donor or SWAP in steps:
                params = await _with_donor(service, steps, params, received)
                _note_swap(request, len(photos))
            if wants_job(request.headers.getlist("prefer")):
                given = dataclasses.asdict(params)
                job = JobRequest(
                    identifier, request.state.owner, tuple(photos), steps, given, want.format, quality, want.mixed
                )
                return submitted(request, await service.submit(job))
            if len(photos) == 1:
                outcomes = [await finish(process(photos[0]), identifier, started)]
            else:
                outcomes = await asyncio.gather(*(settle(process(photo), identifier, started) for photo in photos))
        await service.keep_report(_report_name(request, identifier), _told(outcomes, identifier))
        return image_response(outcomes[0], want) if len(photos) == 1 else parts_response(outcomes, want)

    return answer


async def _with_donor(service: Service, steps: list[str], params: Params, received: Received) -> Params:
    """The donor's face, found once for all photos, and consent. Raises RayfaceError where one is missing."""
    consent = parse_consent(received.consent)
    check_swap(steps, bool(received.donor), consent)
    try:
        donor = await service.donor(received.donor)
    except RayfaceError as error:
        if error.status not in WRONG_PHOTO:
            raise
        raise of_the_donor(error) from error
    return dataclasses.replace(params, donor=donor, consent=consent)


def _note_swap(request: Request, photos: int) -> None:
    """Who swapped faces, when: in the log of the service, without anything of the photos."""
    metrics.SWAP_REQUESTS.record(1)
    who = request.state.owner or "anybody (no API keys)"
    logger.warning("swap: request %s of %s, %d photo(s), consent stated", request.state.request_id, who, photos)


def _report_name(request: Request, identifier: str) -> str:
    """Ids are chosen by clients: those of one key must not reach the reports of another."""
    return f"{request.state.owner}/{identifier}"


def _told(outcomes: list[Outcome], identifier: str) -> Json:
    """What is kept of a request: the report of its photo, or those of its photos."""
    if len(outcomes) == 1 and outcomes[0].report is not None:
        return outcomes[0].report
    return {"request_id": identifier, "photos": [outcome.told for outcome in outcomes]}


def _add_face_routes(app: APIRouter, service: Service, gate: Gate) -> None:
    async def answer(request: Request, about: Callable[[bytes], Awaitable[Json]]) -> JSONResponse:
        async def one(photo: bytes) -> Json:
            check_photo(photo, service.settings.limits)
            return await about(photo)

        with gate.request() as cover:
            received = await receive(request, service.settings, cover)
            check_swap((), bool(received.donor), False)
            photos = received.photos
            if len(photos) == 1:
                return JSONResponse(await one(photos[0]))
            identifier = request.state.request_id
            return JSONResponse(list(await asyncio.gather(*(problems.or_problem(one(p), identifier) for p in photos))))

    def documented(kind: Any) -> Json:
        described = "Of several photos a list in their order, with a problem document for one that failed"
        return {
            "openapi_extra": openapi.image_body(service.settings),
            "responses": {
                200: {"description": described, "model": kind | list[kind | openapi.Problem]},
                **openapi.refusals(*openapi.RECEIVING, 404),
            },
        }

    @app.post("/detect", **documented(openapi.Detected))
    async def detect(request: Request) -> JSONResponse:
        """Boxes, five landmarks and scores of the faces in photos, in their pixels."""
        return await answer(request, service.detect)

    @app.post("/parse", **documented(openapi.Parsed))
    async def parse(request: Request) -> JSONResponse:
        """A mask of class ids (PNG, base64) of each face's crop, and the matrix from photo to crop."""
        return await answer(request, service.parse)

    @app.post("/detect-swap", **documented(openapi.SwapsDetected))
    async def detect_swap(request: Request) -> JSONResponse:
        """How likely each face in photos was swapped for somebody else's; where the service has a model for it."""
        return await answer(request, service.detect_swap)


def _add_json_routes(app: APIRouter, service: Service) -> None:
    reports: openapi.Responses = {
        200: {
            "description": "Of several photos all reports, in their order",
            "model": openapi.PhotoReport | openapi.SeveralReports,
        },
        **openapi.refusals(404, 422, 500),
    }

    @app.get("/reports/{identifier}", responses=reports)
    async def report(request: Request, identifier: openapi.Identifier) -> JSONResponse:
        """The full report of a request of the last minutes, by its x-request-id."""
        found = await service.report(_report_name(request, identifier))
        if found is None:
            raise RayfaceError(
                f"There is no report {identifier!r}; they last {service.settings.report_seconds:g} s.",
                status=404,
                kind="no-report",
            )
        return JSONResponse(found)

    @app.get("/models", responses={200: {"model": openapi.Models}, **openapi.refusals(500)})
    async def models() -> JSONResponse:
        """The steps that may be asked for, and the models in use: name, version, licence, terms, whether commercial use
        is allowed, hash, metrics, and which attributes the one of `edit_attributes` edits."""
        return JSONResponse({"steps": list(service.settings.steps), "models": await service.models()})


def _add_health(app: FastAPI, service: Service) -> None:
    states: openapi.Responses = {
        200: {"model": openapi.Health},
        503: {"model": openapi.Health, "description": "A deployment is not healthy"},
        **openapi.refusals(500),
    }

    @app.get("/healthz", responses=states)
    async def healthz() -> JSONResponse:
        """200 while every deployment is healthy, else 503. Needs no API key."""
        state = await service.health()
        return JSONResponse(state, 200 if state["status"] == "ok" else 503)
