"""What all jobs of a cluster share: one typed file, `cluster/settings.yaml` of the submitted working dir.

    storage: s3://bucket/runs        # --storage of train and tune where none is given
    store: s3://bucket/models        # --store of whatever takes one
    secrets: [AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY]
    environment: { NCCL_SOCKET_IFNAME: eth0, NCCL_DEBUG: WARN }

RAYFACE_CLUSTER_SETTINGS names another file. Secrets are only named: every node has them in its environment (from a
Kubernetes secret, or the setup of the machine), and a job without them stops before it starts.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rayface.configuration import from_dict
from rayface.errors import RayfaceError

VARIABLE = "RAYFACE_CLUSTER_SETTINGS"
FILE = Path("cluster/settings.yaml")
# Words by which a variable is taken for a secret, which may not stand in a file that travels with every job.
SECRET = ("SECRET", "PASSWORD", "TOKEN", "ACCESS_KEY", "CREDENTIAL")


@dataclass(frozen=True)
class ClusterSettings:
    """The file's content; everything may be left out."""

    storage: str = ""
    store: str = ""
    secrets: tuple[str, ...] = ()  # names of environment variables
    environment: dict[str, str] = field(default_factory=dict)  # of every worker: NCCL, thread counts, proxies

    def __post_init__(self) -> None:
        for name in self.environment:
            if any(word in name.upper() for word in SECRET):
                raise RayfaceError(
                    f"environment.{name} looks like a secret, and this file is kept with every job: name it under "
                    "`secrets`, and give the variable to the nodes"
                )


def read_settings(environment: Mapping[str, str] = os.environ) -> ClusterSettings:
    """Those of the file; without one, none. Raises RayfaceError: a file that is named and missing, wrong content."""
    import yaml

    named = environment.get(VARIABLE)
    path = Path(named or FILE)
    if not path.exists():
        if named:
            raise RayfaceError(f"{VARIABLE}={named}: no such file")
        return ClusterSettings()
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise RayfaceError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise RayfaceError(f"{path}: give keys and values, as cluster/settings.py shows")
    settings = from_dict(ClusterSettings, content, str(path))
    missing = [name for name in settings.secrets if name not in environment]
    if missing:
        raise RayfaceError(
            f"{path} names {', '.join(missing)}, which this node's environment lacks; give it to the nodes"
        )
    return settings


def with_defaults(words: Sequence[str], settings: ClusterSettings, options: Collection[str]) -> list[str]:
    """A command's words with --storage and --store of the settings where it takes them (`options`) and has none."""
    added = []
    for option, value in (("--storage", settings.storage), ("--store", settings.store)):
        given = any(word == option or word.startswith(f"{option}=") for word in words)
        if value and option in options and not given:
            added += [option, value]
    return [*words, *added]
