"""Jobs over HTTP: /v1/jobs/ID, its result, and its end."""

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from rayface.errors import RayfaceError
from serve import openapi, problems
from serve.answers import Json, image_response, parts_response
from serve.negotiation import Wanted

if TYPE_CHECKING:
    from serve.routes import Service


def submitted(request: Request, status: Json) -> Response:
    """202: the job is taken; where it is found and what of `Prefer` was done."""
    where = f"{request.scope.get('root_path', '')}/v1/jobs/{status['id']}"
    headers = {"location": where, "preference-applied": "respond-async", "cache-control": "no-store"}
    return JSONResponse(status, 202, headers)


def add_job_routes(app: APIRouter, service: "Service") -> None:
    def no_job(identifier: str) -> RayfaceError:
        kept = f"finished ones last {service.settings.job_seconds:g} s"
        return RayfaceError(f"There is no job {identifier!r}; {kept}.", status=404, kind="no-job")

    @app.get("/jobs/{identifier}", responses={200: {"model": openapi.Job}, **openapi.refusals(404, 422, 500)})
    async def job(request: Request, identifier: openapi.Identifier) -> JSONResponse:
        """How a job stands, and the reports or problems of its photos."""
        found = await service.job(request.state.owner, identifier)
        if found is None:
            raise no_job(identifier)
        return JSONResponse(found, headers={"cache-control": "no-store"})

    answers = {**openapi.image_answer(), **openapi.refusals(*openapi.RECEIVING, 404, 409, 507)}

    @app.get("/jobs/{identifier}/result", responses=answers, response_class=Response)
    async def result(request: Request, identifier: openapi.Identifier) -> Response:
        """What the request would have been answered at once: the photo, or the problem with it."""
        found = await service.job_result(request.state.owner, identifier)
        if found is None:
            raise no_job(identifier)
        outcomes = [outcome for outcome in found.outcomes if outcome is not None]
        if found.status not in ("done", "failed"):
            raise RayfaceError(f"The job is {found.status}: it has no result.", status=409, kind=f"job-{found.status}")
        want = Wanted(found.request.format, found.request.mixed)
        if len(outcomes) > 1:
            return parts_response(outcomes, want)
        if outcomes[0].problem is not None:
            problem = outcomes[0].problem
            return JSONResponse(problem, problem["status"], media_type=problems.MEDIA_TYPE)
        return image_response(outcomes[0], want)

    @app.delete("/jobs/{identifier}", status_code=204, responses=openapi.refusals(404, 422, 500))
    async def cancel(request: Request, identifier: openapi.Identifier) -> Response:
        """Stop a job that is queued or running; forget one that is finished."""
        if not await service.cancel_job(request.state.owner, identifier):
            raise no_job(identifier)
        return Response(status_code=204)
