"""Which request a log line is about, in every process that works on it.

Ray Serve keeps the id in a context variable, hands it from deployment to deployment, and its log formatter prints it.
This module is what that leaves open: ids that were not fit to be kept, and batches, which belong to several requests.
"""

from collections.abc import Sequence
from contextvars import Context, copy_context

from ray.serve import context as serve_context

MOST = 8  # ids in the lines of a batch; then "..."


def current() -> str:
    """The id of the request that is worked on here; "" outside one."""
    return str(serve_context._get_serve_request_context().request_id)


def use(identifier: str) -> None:
    """From here on this is the request's id, also in the deployments that are called."""
    if identifier != current():
        serve_context._set_request_context(request_id=identifier)


def shared(contexts: Sequence[Context]) -> Context:
    """The context for work that several requests share: that of one of them, with the ids of all."""
    context = contexts[0].copy()
    if len(contexts) > 1:
        ids = list(dict.fromkeys(filter(None, (one.run(current) for one in contexts))))
        if ids:
            context.run(use, ",".join([*ids[:MOST], *(["..."] if len(ids) > MOST else [])]))
    return context


def here() -> Context:
    """The context of the caller, to be handed to `shared`."""
    return copy_context()
