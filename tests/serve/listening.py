"""Ray Serve on a port of its own."""

import socket


def start_serve() -> str:
    """Start Serve on a free port of this machine; its address."""
    from ray import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    return f"http://127.0.0.1:{port}"
