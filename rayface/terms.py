"""Terms of use of weights and data, in words and in a form that a program can check.

config.json of a model and dataset.json of a data set carry `licence` (a short name), `terms` (a sentence) and
`commercial_use`: true, false or "unstated". What says nothing counts as "unstated", and "unstated" is not allowed
where only commercial use is (`RAYFACE_COMMERCIAL_ONLY=1`, `--commercial-only`, the service's `commercial_only`).
"""

import os
from collections.abc import Mapping
from typing import Any, Literal

from rayface.errors import RayfaceError

ENVIRONMENT = "RAYFACE_COMMERCIAL_ONLY"
CommercialUse = bool | Literal["unstated"]

# Of the formats that `rayface data` reads or makes; photos of one's own are `folder` or `identity`.
DATA_TERMS: dict[str, dict[str, Any]] = {
    "celeba": {"terms": "CelebA: non-commercial research", "commercial_use": False},
    "celebamask": {"terms": "CelebAMask-HQ: non-commercial research and education", "commercial_use": False},
    "synth": {"terms": "drawn faces, no photos", "commercial_use": True},
}


def commercial_use(stated: Mapping[str, Any]) -> CommercialUse:
    """What a config.json or dataset.json says; anything but true and false is "unstated"."""
    value = stated.get("commercial_use")
    return value if isinstance(value, bool) else "unstated"


def dataset_terms(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """`terms` and `commercial_use` of a data set: its dataset.json's own, else what is known of its format."""
    known = DATA_TERMS.get(str(manifest.get("format")), {})
    stated = {key: manifest[key] for key in ("terms", "commercial_use") if key in manifest}
    return {"terms": "", "commercial_use": "unstated", **known, **stated}


def inherited(sources: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`licence`, `terms` and `commercial_use` of what was made from `sources` (what it is -> what it states).

    Research-only if one source is, "unstated" if one says nothing, else commercial use is allowed. The terms name every
    source with its own, which for a model hold those that it inherited in turn, in brackets where they are several.
    """
    uses = [commercial_use(source) for source in sources.values()]
    use: CommercialUse = False if False in uses else "unstated" if "unstated" in uses else True
    said = []
    for what, source in sources.items():
        own = source.get("terms") or source.get("licence") or "terms not stated"
        said.append(f"{what}: [{own}]" if "; " in own else f"{what}: {own}")
    licence = "research-only" if use is False else "unstated"
    return {"licence": licence, "terms": "; ".join(said), "commercial_use": use}


def check_commercial(what: str, stated: Mapping[str, Any], file: str = "config.json") -> None:
    """Refuse weights or data that do not state that commercial use is allowed.

    Raises RayfaceError naming `what`, its terms and the way out; `file` is where it states them.
    """
    use = commercial_use(stated)
    if use is True:
        return
    terms = stated.get("terms") or stated.get("licence") or "not stated"
    raise RayfaceError(
        f"{what} is refused: only what allows commercial use may be used here, and its commercial_use is "
        f"{str(use).lower()} (terms: {terms}). Take another one, train on data that you hold the rights to, or, if "
        f'they are yours, state "commercial_use": true in its {file}; without --commercial-only, {ENVIRONMENT}=1 and '
        "the setting commercial_only it is accepted.",
        status=403,
        kind="terms",
    )


def commercial_only() -> bool:
    """Whether the environment asks for it. Raises RayfaceError for a value that is neither yes nor no."""
    value = os.environ.get(ENVIRONMENT, "").strip().lower()
    if value in ("", "0", "false", "no"):
        return False
    if value in ("1", "true", "yes"):
        return True
    raise RayfaceError(f"{ENVIRONMENT}={value!r}: give 1 or 0")
