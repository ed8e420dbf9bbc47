"""Ray Serve on a port of its own."""

from serve.proxy import free_ports


def start_serve() -> str:
    """Start Serve on a free port of this machine; its address."""
    from ray import serve

    (port,) = free_ports(1)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    return f"http://127.0.0.1:{port}"
