"""Every error as RFC 9457 problem JSON."""

import logging
from collections.abc import Awaitable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from rayface.errors import RayfaceError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

T = TypeVar("T")
logger = logging.getLogger("ray.serve")
MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:rayface:problem:"


class Overloaded(RayfaceError):
    """The queue is full; the client should try again after `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"The service is busy; try again in {retry_after} s.", status=503, kind="overloaded")
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type["Overloaded"], tuple[int]]:  # it travels between replicas
        return Overloaded, (self.retry_after,)


def cause(error: BaseException | None) -> RayfaceError | None:
    """The RayfaceError at the bottom of Ray's wrapping, if any: a failed stage fails all after it."""
    while error is not None:
        if type(error) in (RayfaceError, Overloaded):  # not Ray's own class that is both
            return error  # type: ignore[return-value]
        error = getattr(error, "cause", None) or error.__cause__
    return None


def died(error: BaseException | None) -> bool:
    """Whether a replica's end is at the bottom of Ray's wrapping: the same call may succeed on another one."""
    from ray.exceptions import RayActorError

    while error is not None:
        if isinstance(error, RayActorError):
            return True
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return False


def problem(status: int, kind: str, detail: str, request_id: str) -> dict[str, Any]:
    """The members of a problem document; `kind` is the last part of its type."""
    return {
        "type": TYPE_PREFIX + kind,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": f"urn:rayface:request:{request_id}",
    }


def of(error: RayfaceError, request_id: str) -> dict[str, Any]:
    """The problem document of an error that a client can mend."""
    return problem(error.status, error.kind, str(error), request_id)


def unforeseen(request_id: str) -> dict[str, Any]:
    """The problem document of the exception being handled, which is logged: its text may tell more than clients
    should know."""
    logger.exception("request %s failed", request_id)
    return problem(500, "internal", "The service failed at this request.", request_id)


async def or_problem(work: Awaitable[T], request_id: str) -> T | dict[str, Any]:
    """What `work` gives; what goes wrong in it becomes a problem document."""
    try:
        return await work
    except RayfaceError as error:
        return of(error, request_id)
    except Exception:
        return unforeseen(request_id)


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
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods(request)) or headers.get("Allow", "")
        return _response(request, error.status_code, kind, detail, headers)

    async def on_validation(request: "Request", error: RequestValidationError) -> "Response":
        faults = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        return _response(request, 422, "invalid-request", "; ".join(faults), {})

    app.add_exception_handler(RayfaceError, on_rayface)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, on_http)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, on_validation)  # type: ignore[arg-type]


def _methods(request: "Request") -> list[str]:
    """The methods of all routes at a request's path; the framework names those of the first one only."""
    from starlette.routing import compile_path

    methods: list[str] = []
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    for template, operations in request.app.openapi()["paths"].items():
        if compile_path(template)[0].match(path):
            methods += [method.upper() for method in operations]
    return methods


def _response(request: "Request", status: int, kind: str, detail: str, headers: dict[str, str]) -> "Response":
    from starlette.responses import JSONResponse

    body = problem(status, kind, detail, getattr(request.state, "request_id", ""))
    return JSONResponse(body, status, headers, MEDIA_TYPE)
