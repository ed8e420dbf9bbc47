"""Every error as RFC 9457 problem JSON."""

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from rayface.errors import RayfaceError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:rayface:problem:"
SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "examples": [TYPE_PREFIX + "unknown-step"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "urn:rayface:request: and the request's x-request-id"},
    },
}


class Overloaded(RayfaceError):
    """The queue is full; the client should try again after `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"The service is busy; try again in {retry_after} s.", status=503, kind="overloaded")
        self.retry_after = retry_after


def problem(status: int, kind: str, detail: str, request_id: str) -> dict[str, Any]:
    """The members of a problem document; `kind` is the last part of its type."""
    return {
        "type": TYPE_PREFIX + kind,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": f"urn:rayface:request:{request_id}",
    }


def install(app: "FastAPI") -> None:
    """Answer RayfaceError, validation errors, unknown paths and methods as problems."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    async def on_rayface(request: "Request", error: RayfaceError) -> "Response":
        headers = {"retry-after": str(error.retry_after)} if isinstance(error, Overloaded) else {}
        return _response(request, error.status, error.kind, str(error), headers)

    async def on_http(request: "Request", error: HTTPException) -> "Response":
        kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        detail = {
            404: f"There is nothing at {request.url.path}; GET /docs lists the routes.",
            405: f"{request.method} is not possible at {request.url.path}; GET /docs lists the routes.",
        }.get(error.status_code, str(error.detail))
        return _response(request, error.status_code, kind, detail, dict(error.headers or {}))

    async def on_validation(request: "Request", error: RequestValidationError) -> "Response":
        faults = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        return _response(request, 422, "invalid-request", "; ".join(faults), {})

    app.add_exception_handler(RayfaceError, on_rayface)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, on_http)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, on_validation)  # type: ignore[arg-type]


def _response(request: "Request", status: int, kind: str, detail: str, headers: dict[str, str]) -> "Response":
    from starlette.responses import JSONResponse

    body = problem(status, kind, detail, getattr(request.state, "request_id", ""))
    return JSONResponse(body, status, headers, MEDIA_TYPE)
