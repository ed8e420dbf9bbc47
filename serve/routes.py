"""The HTTP interface: a FastAPI app over a `Service`, which the deployment `Ingress` is."""

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayface.errors import RayfaceError
from rayface.work import Params, check_steps
from serve import problems
from serve.negotiation import MIXED, Wanted, image_bytes, multipart_mixed, request_id, wanted
from serve.settings import Settings

logger = logging.getLogger("ray.serve")
PAGES = {"/": "page.html", "/docs": "docs.html"}
Json = dict[str, Any]

IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            **{f"image/{kind}": {"schema": {"type": "string", "format": "binary"}} for kind in ("jpeg", "png", "webp")},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}
PROBLEMS: dict[int | str, Json] = {
    "default": {
        "description": "RFC 9457 problem details",
        "content": {problems.MEDIA_TYPE: {"schema": problems.SCHEMA}},
    }
}
IMAGE_ANSWER: dict[int | str, Json] = {
    **PROBLEMS,
    200: {
        "description": "The processed photo; with `Accept: multipart/mixed` the photo and its report as JSON",
        "headers": {
            "x-request-id": {"schema": {"type": "string"}},
            "x-rayface-summary": {"schema": {"type": "string"}, "description": "JSON: faces, changed, ms"},
        },
        "content": {kind: {} for kind in ("image/jpeg", "image/png", "image/webp", MIXED)},
    },
}

Steps = Annotated[str, Query(description="steps in order, separated by commas", examples=["enhance"])]
Strength = Annotated[float, Query(ge=0, le=1, description="0 keeps the face, 1 is the full effect")]
Faces = Annotated[Literal["all", "largest"], Query(description="which faces are processed")]
Scale = Annotated[Literal["2", "4"], Query(description="how many times larger `upscale` makes the photo")]
Format = Annotated[Literal["jpeg", "png", "webp"] | None, Query(description="overrides Accept")]
Quality = Annotated[int, Query(ge=1, le=100, description="of JPEG and WebP")]


class Service(Protocol):
    """What the HTTP interface needs; `Ingress` does it with Ray Serve's deployments."""

    settings: Settings

    async def process(
        self, data: bytes, steps: list[str], params: Params, format: str, quality: int
    ) -> tuple[bytes, Json]: ...
    async def detect(self, data: bytes) -> Json: ...
    async def parse(self, data: bytes) -> Json: ...
    async def keep_report(self, identifier: str, report: Json) -> None: ...
    async def report(self, identifier: str) -> Json | None: ...
    async def models(self) -> list[Json]: ...
    async def health(self) -> Json: ...


def create_app(service: Service) -> FastAPI:
    """The routes of SPEC F8 over `service`."""
    app = FastAPI(
        title="rayface",
        version="1",
        description="Face networks over HTTP. Errors are RFC 9457 problem documents.",
        responses=PROBLEMS,
        docs_url=None,  # FastAPI's own page loads its scripts from elsewhere; docs.html needs no network
        redoc_url=None,
    )
    problems.install(app)
    app.add_middleware(RequestContext)
    _add_image_routes(app, service)
    _add_json_routes(app, service)
    for path, file in PAGES.items():
        _add_page(app, path, Path(__file__).with_name(file).read_text())
    return app


def _add_page(app: FastAPI, path: str, text: str) -> None:
    @app.get(path, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(text)


def _add_image_routes(app: FastAPI, service: Service) -> None:
    gate = Gate(service.settings.max_in_flight, service.settings.retry_after_s)

    async def answer(
        request: Request, names: Sequence[str], params: Params, format: str | None, quality: int
    ) -> Response:
        started = time.perf_counter()
        want = wanted(request.headers.get("accept", ""), format)
        chosen = check_steps(names, service.settings.steps)
        with gate:
            data = await _receive(request, service.settings)
            image, report = await service.process(data, chosen, params, want.format, quality)
        identifier = request.state.request_id
        report = {"request_id": identifier, **report}
        report["timings_ms"]["total"] = round(1000 * (time.perf_counter() - started), 2)
        await service.keep_report(identifier, report)
        return _image_response(image, report, want)

    @app.post("/v1/process", openapi_extra=IMAGE_BODY, responses=IMAGE_ANSWER, response_class=Response)
    async def process(
        request: Request,
        steps: Steps,
        strength: Strength = 1.0,
        faces: Faces = "all",
        scale: Scale = "2",
        format: Format = None,
        quality: Quality = 92,
    ) -> Response:
        """Run a chain of steps on a photo and its faces."""
        names = [name.strip() for name in steps.split(",") if name.strip()]
        return await answer(request, names, Params(strength, faces, int(scale)), format, quality)

    @app.post("/v1/enhance", openapi_extra=IMAGE_BODY, responses=IMAGE_ANSWER, response_class=Response)
    async def enhance(
        request: Request,
        strength: Strength = 1.0,
        faces: Faces = "all",
        format: Format = None,
        quality: Quality = 92,
    ) -> Response:
        """Make the faces of a photo clearer."""
        return await answer(request, ["enhance"], Params(strength, faces), format, quality)

    @app.post("/v1/detect", openapi_extra=IMAGE_BODY)
    async def detect(request: Request) -> JSONResponse:
        """Boxes, five landmarks and scores of the faces in a photo, in its pixels."""
        with gate:
            return JSONResponse(await service.detect(await _receive(request, service.settings)))

    @app.post("/v1/parse", openapi_extra=IMAGE_BODY)
    async def parse(request: Request) -> JSONResponse:
        """A mask of class ids (PNG, base64) of each face's crop, and the matrix from photo to crop."""
        with gate:
            return JSONResponse(await service.parse(await _receive(request, service.settings)))


def _add_json_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v1/reports/{identifier}")
    async def report(identifier: str) -> JSONResponse:
        """The full report of a request of the last minutes, by its x-request-id."""
        found = await service.report(identifier)
        if found is None:
            raise RayfaceError(
                f"There is no report {identifier!r}; they last {service.settings.report_seconds:g} s.",
                status=404,
                kind="no-report",
            )
        return JSONResponse(found)

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        """The models in use: name, version, licence, terms, whether commercial use is allowed, hash, metrics."""
        return JSONResponse({"models": await service.models()})

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """200 while every deployment is healthy, else 503."""
        state = await service.health()
        return JSONResponse(state, 200 if state["status"] == "ok" else 503)


async def _receive(request: Request, settings: Settings) -> bytes:
    """The image of a request; a client that takes too long to send it must not keep others out."""
    try:
        async with asyncio.timeout(settings.timeout_s):
            return await image_bytes(request, settings.limits)
    except TimeoutError:
        raise RayfaceError(
            f"The image did not arrive within {settings.timeout_s:g} s; send it faster or smaller.",
            status=408,
            kind="slow-upload",
        ) from None


def _image_response(image: bytes, report: Json, want: Wanted) -> Response:
    summary = {
        "faces": len(report["faces"]),
        "changed": report["changed"],
        "ms": round(report["timings_ms"]["total"]),
    }
    body, media_type = image, want.media_type
    if want.mixed:
        parts = [(want.media_type, image), ("application/json", json.dumps(report).encode())]
        body, media_type = multipart_mixed(parts)
    headers = {
        "x-rayface-summary": json.dumps(summary, separators=(",", ":")),
        "vary": "accept",
        "cache-control": "no-store",
    }
    return Response(body, media_type=media_type, headers=headers)


class Gate:
    """Refuses work beyond `limit` requests at a time, so that the wait stays bounded."""

    def __init__(self, limit: int, retry_after: int) -> None:
        self._limit, self._retry_after, self._inside = limit, retry_after, 0

    def __enter__(self) -> None:
        if self._inside >= self._limit:
            raise problems.Overloaded(self._retry_after)
        self._inside += 1

    def __exit__(self, *error: object) -> None:
        self._inside -= 1


class RequestContext:
    """Gives every request its id, and answers what nothing else caught with a problem document."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id")
        identifier = scope.setdefault("state", {})["request_id"] = request_id(given)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                # Serve's proxy puts an id on every request and repeats it in the answer itself.
                if identifier != given:
                    headers["x-request-id"] = identifier
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            if started:
                raise
            logger.exception("request %s failed", identifier)
            # The text of an unforeseen error stays in the log: it may tell more than clients should know.
            body = problems.problem(500, "internal", "The service failed at this request.", identifier)
            response = JSONResponse(body, 500, media_type=problems.MEDIA_TYPE)
            await response(scope, receive, send_with_id)
