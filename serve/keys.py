"""API keys. The service knows only their SHA-256 digests; `python -m serve.keys` makes a key and its digest."""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from rayface.errors import RayfaceError

ENVIRONMENT = "RAYFACE_API_KEYS"
PREFIX = "rf_"  # lets scanners of source code find keys that slipped in


def digest(key: str) -> str:
    """What the service is told of a key. Keys are random, so a plain hash has nothing that can be guessed."""
    return hashlib.sha256(key.encode()).hexdigest()


def check_digests(keys: Mapping[str, str], where: str) -> None:
    """Raises RayfaceError where a name or its SHA-256 digest is missing; neither is shown, as they may be a key."""
    for name, value in keys.items():
        if not name or not re.fullmatch("[0-9a-f]{64}", value):
            raise RayfaceError(
                f"{where} must hold names and SHA-256 digests of keys (64 hexadecimal digits); `python -m serve.keys` "
                "makes a key and its digest."
            )


def keys_from_environment() -> dict[str, str]:
    """`{name: digest}` of RAYFACE_API_KEYS, written as `name=digest,name=digest`. Raises RayfaceError."""
    entries = [item.strip() for item in os.environ.get(ENVIRONMENT, "").split(",") if item.strip()]
    pairs = [item.partition("=") for item in entries]
    keys = {name.strip(): value.strip() for name, _, value in pairs}
    check_digests(keys, ENVIRONMENT)
    return keys


def owner_of(key: str, keys: Mapping[str, str]) -> str | None:
    """The name of `key`; every digest is compared, in constant time."""
    given, owner = digest(key), None
    for name, known in keys.items():
        if hmac.compare_digest(given, known):
            owner = name
    return owner


def key_needed(keys: Mapping[str, str]) -> Callable[..., Any]:
    """A FastAPI dependency that refuses (401) requests without a key of `keys`, and notes whose key it is."""
    from fastapi import HTTPException, Request, Security
    from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

    bearer = HTTPBearer(auto_error=False)
    header = APIKeyHeader(name="x-api-key", auto_error=False)

    async def check(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
        x_api_key: Annotated[str | None, Security(header)],
    ) -> None:
        key = credentials.credentials if credentials else x_api_key
        owner = owner_of(key, keys) if key else None
        if owner is None:
            what = "The API key is unknown" if key else "An API key is needed"
            detail = f"{what}; send one as Authorization: Bearer KEY, or as x-api-key."
            raise HTTPException(401, detail, headers={"www-authenticate": 'Bearer realm="rayface"'})
        request.state.owner = owner

    return check


def main() -> None:
    """Print a new key, to be given to a client, and its digest, to be given to the service."""
    key = PREFIX + secrets.token_urlsafe(32)
    print(f"key:    {key}\ndigest: {digest(key)}")


if __name__ == "__main__":
    main()
