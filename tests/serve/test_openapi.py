"""The OpenAPI document is true: what schemathesis makes of it is answered as it says, over real HTTP."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
import schemathesis
import torch
from hypothesis import strategies as st

from rayface.imaging.codec import encode
from rayface.store import ModelStore
from serve.answers import Json
from serve.openapi import REASONS
from serve.routes import create_app
from serve.settings import Settings
from tests.scenes import scene
from tests.serve.in_process import InProcess, served

# More jobs than are submitted here: a full list answers 503, which schemathesis takes for a broken server.
SETTINGS = Settings(steps=("enhance",), max_jobs=1000, max_photos=3)


def photos() -> st.SearchStrategy[bytes]:
    plain = torch.full((3, 40, 60), 127, dtype=torch.uint8)
    small = encode(plain, "png")
    return st.sampled_from([small, encode(plain, "jpeg"), encode(scene(0), "jpeg"), small[:60], b"GIF89a", b""])


@dataclass
class Described:
    """What the OpenAPI document is made from."""

    settings: Settings


def described() -> Any:
    """The document as schemathesis reads it."""
    # Of the bytes that a schema can ask for none is a picture: these are, or nearly.
    for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, photos())
    schemathesis.openapi.format("binary", photos())
    schema = schemathesis.openapi.from_dict(create_app(Described(SETTINGS)).openapi())  # type: ignore[arg-type]
    # That a photo is broken or too large no schema can say: valid by it, it may be refused.
    refusals = [str(status) for status in REASONS if status not in (401, 408, 500, 504)]
    schema.config.checks.positive_data_acceptance.expected_statuses = ["2xx", *refusals]
    # What is wrong with the photo of a job is told by the job.
    schema.config.checks.negative_data_rejection.expected_statuses = ["202", "4xx"]
    return schema


@pytest.fixture(scope="module")
def address(tiny_store: ModelStore) -> Iterator[str]:
    from dataclasses import replace

    with served(InProcess(tiny_store, replace(SETTINGS, store=tiny_store.uri))) as address:
        yield address


API = described()
SEEN: dict[str, set[int]] = {}  # of each operation


@API.parametrize()
@hypothesis.settings(max_examples=10)
def test_answers_are_as_documented(case: Any, address: str) -> None:
    answer = case.call_and_validate(base_url=address, timeout=20)
    SEEN.setdefault(case.operation.label, set()).add(answer.status_code)


def test_what_was_asked_reached_the_networks() -> None:
    """After the test above: its photos were not all refused, and not all accepted."""
    for path in ("/v1/process", "/v1/enhance"):
        assert SEEN[f"POST {path}"] >= {200, 202, 422}, SEEN
    for path in ("/v1/enhance", "/v1/detect", "/v1/parse"):
        assert SEEN[f"POST {path}"] >= {200}, SEEN
        assert SEEN[f"POST {path}"] & {400, 415}, SEEN
    assert SEEN["GET /v1/jobs/{identifier}"] >= {404, 422}, SEEN


def test_jobs_and_reports_are_as_documented(address: str) -> None:
    """Ids that exist are nothing that a generator finds."""

    def ask(method: str, path: str, **given: Any) -> Any:
        case = API[path][method].Case(**given)
        return case.call_and_validate(base_url=address, timeout=20)

    photo = encode(scene(0), "png")
    body: Json = {"body": photo, "media_type": "image/png"}
    taken = ask("POST", "/v1/enhance", headers={"Prefer": "respond-async"}, **body)
    assert taken.status_code == 202
    job: Json = {"path_parameters": {"identifier": taken.json()["id"]}}
    while ask("GET", "/v1/jobs/{identifier}", **job).json()["finished"] is None:
        assert ask("GET", "/v1/jobs/{identifier}/result", **job).status_code in (200, 409)
    assert ask("GET", "/v1/jobs/{identifier}/result", **job).status_code == 200
    assert ask("DELETE", "/v1/jobs/{identifier}", **job).status_code == 204
    for several in (photo, [photo, b"nonsense"]):
        form: Json = {"body": {"image": several}, "media_type": "multipart/form-data"}
        done = ask("POST", "/v1/enhance", **form)
        assert done.status_code == 200
        report = ask("GET", "/v1/reports/{identifier}", path_parameters={"identifier": done.headers["x-request-id"][0]})
        assert report.status_code == 200
        assert ("photos" in report.json()) == (several is not photo)
        assert ask("POST", "/v1/parse", **form).status_code == 200
