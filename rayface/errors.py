"""The error every user-facing fault is raised as."""


class RayfaceError(Exception):
    """Something the user can mend: the message names the value and the way out.

    The command line prints it without a traceback and exits with 2; the service turns it into RFC 9457 problem
    JSON with `status`.
    """

    def __init__(self, message: str, *, status: int = 400, kind: str = "bad-request") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
