"""API keys, over the pipeline in this process."""

import asyncio

import httpx
import pytest

from rayface.errors import RayfaceError
from rayface.store import ModelStore
from serve import keys
from serve.keys import ENVIRONMENT, digest, keys_from_environment, owner_of
from serve.settings import Settings, settings_from
from tests.serve.in_process import InProcess, client_of

ANN, BOB = "rf_ann's key", "rf_bob's key"
DIGESTS = {"ann": digest(ANN), "bob": digest(BOB)}


@pytest.fixture(scope="module")
def guarded(tiny_store: ModelStore) -> InProcess:
    return InProcess(tiny_store, Settings(store=tiny_store.uri, steps=("enhance",), api_keys=DIGESTS))


def ask(service: InProcess, method: str, path: str, body: bytes = b"", **headers: str) -> httpx.Response:
    async def run() -> httpx.Response:
        async with client_of(service) as client:
            return await client.request(method, path, content=body, headers=headers)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": "rf_other"},
        {"x-api-key": ""},
        {"authorization": f"Basic {ANN}"},
        {"x-api-key": DIGESTS["ann"]},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/enhance?strength=9"), ("GET", "/v1/models"), ("GET", "/v1/jobs/x")]
)
def test_without_a_known_key_nothing_is_done(
    guarded: InProcess, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = ask(guarded, method, path, **headers)
    assert (answer.status_code, answer.json()["type"]) == (401, "urn:rayface:problem:unauthorized")
    assert answer.headers["www-authenticate"] == 'Bearer realm="rayface"'
    assert "Authorization: Bearer" in answer.json()["detail"]


def test_either_header_will_do_and_pages_and_health_are_open(guarded: InProcess, face_png: bytes) -> None:
    assert ask(guarded, "POST", "/v1/detect", face_png, **{"x-api-key": ANN}).status_code == 200
    assert ask(guarded, "GET", "/v1/models", authorization=f"Bearer {BOB}").status_code == 200
    for path in ("/", "/docs", "/openapi.json", "/healthz"):
        assert ask(guarded, "GET", path).status_code == 200


def test_reports_of_one_key_are_hidden_from_another(guarded: InProcess, face_png: bytes) -> None:
    answer = ask(guarded, "POST", "/v1/enhance", face_png, **{"x-api-key": ANN, "x-request-id": "1"})
    assert answer.status_code == 200
    assert ask(guarded, "GET", "/v1/reports/1", **{"x-api-key": ANN}).status_code == 200
    assert ask(guarded, "GET", "/v1/reports/1", **{"x-api-key": BOB}).status_code == 404


def test_keys_are_documented_only_where_they_are_asked_for(guarded: InProcess, tiny_store: ModelStore) -> None:
    with_keys = ask(guarded, "GET", "/openapi.json").json()
    assert set(with_keys["components"]["securitySchemes"]) == {"HTTPBearer", "APIKeyHeader"}
    assert "401" in with_keys["paths"]["/v1/enhance"]["post"]["responses"]
    assert "security" not in with_keys["paths"]["/healthz"]["get"]
    open_to_all = InProcess(tiny_store, Settings(store=tiny_store.uri, steps=("enhance",)))
    without = ask(open_to_all, "GET", "/openapi.json").json()
    assert "securitySchemes" not in without["components"]


def test_owner_of() -> None:
    assert owner_of(ANN, DIGESTS) == "ann"
    assert owner_of("", DIGESTS) is owner_of(DIGESTS["ann"], DIGESTS) is owner_of(ANN, {}) is None


def test_a_new_key_and_its_digest_belong_together(capsys: pytest.CaptureFixture[str]) -> None:
    keys.main()
    key, known = (line.split()[1] for line in capsys.readouterr().out.splitlines())
    assert len(key) > 40
    assert settings_from({"api_keys": {"new": known}}).api_keys == {"new": digest(key)}


def test_plain_keys_are_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RayfaceError, match=r"settings.api_keys must hold names and SHA-256 digests") as caught:
        settings_from({"api_keys": {"ann": ANN}})
    assert ANN not in str(caught.value)
    monkeypatch.setenv(ENVIRONMENT, f"ann={DIGESTS['ann']}, bob = {DIGESTS['bob']},")
    assert keys_from_environment() == DIGESTS
    for wrong in (ANN, f"={DIGESTS['ann']}", "ann="):
        monkeypatch.setenv(ENVIRONMENT, wrong)
        with pytest.raises(RayfaceError, match=ENVIRONMENT) as caught:
            keys_from_environment()
        assert ANN not in str(caught.value)
    monkeypatch.delenv(ENVIRONMENT)
    assert keys_from_environment() == {}
