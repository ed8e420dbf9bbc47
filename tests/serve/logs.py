"""What Ray Serve's replicas logged."""

import re
from pathlib import Path

# `INFO 2026-11-30 15:35:31,274 rayface_enhancer jmmd8lft my-request -- text`
LINE = re.compile(r"^[A-Z]+ \S+ \S+ \S+ \S+ (?P<request>\S+) -- (?P<text>.*)$")


def folder() -> Path:
    """Of the cluster that this process is connected to."""
    import ray

    return Path(ray._private.worker._global_node.get_session_dir_path()) / "logs" / "serve"  # type: ignore[union-attr]


def logged(application: str, text: str) -> dict[str, set[str]]:
    """Deployment -> request ids of its lines that hold `text`; "" for a line that has none."""
    found: dict[str, set[str]] = {}
    for file in folder().glob(f"replica_{application}_*.log"):
        deployment = file.name.removeprefix(f"replica_{application}_").rpartition("_")[0]
        for line in file.read_text().splitlines():
            if text in line:
                match = LINE.match(line)
                found.setdefault(deployment, set()).add(match["request"] if match else "")
    return found
