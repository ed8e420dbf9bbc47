"""`python -m serve`: the whole service on this machine, until Ctrl-C."""

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayface.credentials import Signer
from rayface.errors import RayfaceError
from serve.proxy import quick_ways
from serve.settings import Settings, settings_from

ROOT = Path(__file__).resolve().parent.parent
OBJECT_STORE_BYTES = 1_000_000_000  # photos in flight; a decoded 24-megapixel one has 72 MB


def main(argv: Sequence[str] | None = None) -> int:
    """Start the service and block. Returns 0 after Ctrl-C or SIGTERM, 2 for what a user can mend."""
    options = _arguments().parse_args(argv)
    try:
        settings, http = _settings(options)
        check_port(http["host"], http["port"])
        if options.metrics_port:
            check_port("0.0.0.0", options.metrics_port)
        run(settings, http, options.metrics_port)
    except RayfaceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve", description="Serve rayface over HTTP.")
    parser.add_argument("--config", metavar="FILE", help="a Serve config file such as serve/config.yaml")
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1; 0.0.0.0 for every interface)")
    parser.add_argument("--port", type=int, help="default 8000")
    parser.add_argument("--store", metavar="URI", help="model store; the release weights are behind it")
    parser.add_argument("--preset", help="laptop (default) or gpu")
    parser.add_argument(
        "--metrics-port",
        type=int,
        help="where Prometheus reads the figures of docs/operations.md (default: a free port)",
    )
    return parser


def _settings(options: argparse.Namespace) -> tuple[Settings, dict[str, Any]]:
    """Settings and HTTP options: the file's, with the command line's over them."""
    args: dict[str, Any] = {}
    http: dict[str, Any] = {"host": "127.0.0.1", "port": 8000}
    if options.config:
        file_args, file_http = read_config(options.config)
        args, http = {**args, **file_args}, {**http, **file_http}
    for key in ("store", "preset"):
        if getattr(options, key) is not None:
            args[key] = getattr(options, key)
    for key in ("host", "port"):
        if getattr(options, key) is not None:
            http[key] = getattr(options, key)
    if not 1 <= http["port"] <= 65535:
        raise RayfaceError(f"--port {http['port']}: a port is a number from 1 to 65535.")
    return settings_from(args), http


def read_config(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(application arguments, HTTP options) of a Serve config file.

    Raises RayfaceError for a file that is missing or not valid, and for one with more than this application
    in it.
    """
    import yaml
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    try:
        raw = yaml.safe_load(Path(path).read_text())
        config = ServeDeploySchema.model_validate(raw)
    except OSError as error:
        raise RayfaceError(f"--config {path}: {error.strerror}.") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise RayfaceError(f"--config {path} is not a Serve config file: {error}") from error
    applications = config.applications
    if len(applications) != 1 or applications[0].import_path != "serve.app:build" or applications[0].deployments:
        raise RayfaceError(
            f"--config {path}: python -m serve runs one application, serve.app:build, set by its `args`; for "
            f"anything else use `serve run {path}`."
        )
    return dict(applications[0].args), dict(raw.get("http_options", {}))


def check_port(host: str, port: int) -> None:
    """Raises RayfaceError where another program listens: Serve would silently share the port with it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RayfaceError(
                f"Cannot listen on {host} port {port}: {error.strerror}; choose another with --port, --host."
            ) from error


def run(settings: Settings, http: dict[str, Any], metrics_port: int | None = None) -> None:
    """Start Ray (or join the cluster of $RAY_ADDRESS) and the application; block until SIGINT or SIGTERM.

    `metrics_port`: of a Ray that is started here; a cluster has its own.
    """
    if os.environ.get("RAY_ADDRESS"):
        _run(settings, http, None)
        return
    with quick_ways():
        _run(settings, http, metrics_port)


def _run(settings: Settings, http: dict[str, Any], metrics_port: int | None) -> None:
    from serve.app import compose

    application = compose(settings)  # wrong models and certificates are found before anything is started
    if not os.environ.get("RAY_ADDRESS"):  # else they lie where the replicas run
        Signer(settings.credentials)
    print("Starting ...", flush=True)
    import ray
    from ray import serve

    try:
        _start_ray(metrics_port)
        for number in (signal.SIGINT, signal.SIGTERM):  # only now: starting Ray sets handlers of its own
            signal.signal(number, signal.default_int_handler)
        # The service's own time-out answers first, with a problem document; this is the backstop.
        serve.start(http_options={"request_timeout_s": settings.timeout_s + 30, **http})
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.run(application, name="rayface", route_prefix="/")
        print(f"rayface is up at http://{_shown(http['host'])}:{http['port']} (Ctrl-C stops it)", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        print("Stopping ...", flush=True)
    except (RuntimeError, ray.exceptions.RayError) as error:
        raise RayfaceError(f"The service did not start: {error}") from error
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C must not leave processes behind
            signal.signal(number, signal.SIG_IGN)
        if ray.is_initialized():
            serve.shutdown()
            ray.shutdown()


def _start_ray(metrics_port: int | None) -> None:
    import ray

    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    common: dict[str, Any] = {
        "runtime_env": {"env_vars": {"PYTHONPATH": path}},
        "log_to_driver": False,
        "logging_level": "ERROR",
    }
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address="auto", **common)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _metrics_export_port=metrics_port,
        _system_config={"automatic_object_spilling_enabled": False},  # photos never reach the disk
        **common,
    )


def _shown(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)


if __name__ == "__main__":
    sys.exit(main())
