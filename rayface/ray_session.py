"""Which Ray cluster a command runs on."""

import logging
import os
from collections.abc import Mapping

# Of a cluster on one machine that ends with its command: nobody takes the machine away (the watcher for it is one more
# process that imports Ray Train before the first step), and an end that is noticed late is waited for.
PRIVATE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}


def connect(quiet: bool = False, environment: Mapping[str, str] | None = None) -> None:
    """The cluster this process is connected to, else that of RAY_ADDRESS, else a new one on this machine.

    A job submitted to a cluster has RAY_ADDRESS. Without it a private cluster is started and ends with the process:
    Ray's own default of joining whatever was started last hangs for minutes when that one has died. `quiet`: what
    workers print is not shown here, for commands that print JSON and progress of their own.
    `environment`: of all workers.
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        address = "local"
        for name, value in PRIVATE.items():
            os.environ.setdefault(name, value)
    ray.init(
        address=address, log_to_driver=not quiet, logging_level=logging.ERROR if quiet else logging.WARNING,
        runtime_env={"env_vars": dict(environment)} if environment else None,
    )  # fmt: skip
