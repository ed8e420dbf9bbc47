"""What surrounds every request."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import problems, request_ids
from serve.negotiation import request_id


class RequestContext:
    """Gives every request its id, and answers what nothing else caught with a problem document."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id")
        identifier = scope.setdefault("state", {})["request_id"] = request_id(given)
        request_ids.use(identifier)  # in the log too, where the client's own was none to be kept
        scope["state"]["owner"] = ""  # without API keys everything belongs to everybody
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
        except ClientDisconnect:
            return  # gone in the middle of its upload: nobody is there to be answered
        except Exception:
            if started:
                raise
            response = JSONResponse(problems.unforeseen(identifier), 500, media_type=problems.MEDIA_TYPE)
            await response(scope, receive, send_with_id)
