"""Swapping over HTTP: off by default, never without a donor and consent, noted in the log without the photos."""

import asyncio
import dataclasses
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from rayface.apply import apply_steps
from rayface.client import Client, ServiceError
from rayface.errors import RayfaceError
from rayface.imaging.codec import decode, encode
from rayface.pipeline import Pipeline
from rayface.store import ModelStore
from rayface.work import Params
from serve.settings import Settings
from tests.scenes import same_pixels, scene
from tests.serve.in_process import InProcess, client_of, served
from tests.tiny_models import save_tiny_models


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return save_tiny_models(tmp_path_factory.mktemp("swaps"), ("face_swap", "swap_detection", "parsing"))


@pytest.fixture(scope="module")
def service(store: ModelStore) -> InProcess:
    return InProcess(store, Settings(store=store.uri, steps=("swap",), max_photos=3))


def post(service: InProcess, path: str, **what: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with client_of(service) as client:
            return await client.post(path, **what)

    return asyncio.run(run())


def photo(index: int, faces: int = 1) -> bytes:
    return encode(scene(index, faces), "png")


AGREED = {"consent": "true"}


def test_a_face_becomes_the_donors_as_in_the_pipeline(service: InProcess, store: ModelStore) -> None:
    pipeline = Pipeline.from_store(store, ["swap"])
    answers = []
    for donor in (1, 2):
        files = {"image": photo(0), "donor": photo(donor)}
        answers.append(post(service, "/v1/swap?format=png", files=files, data=AGREED))
        assert answers[-1].status_code == 200, answers[-1].text
        asked = Params(donor=pipeline.donor(photo(donor)), consent=True, faces="largest")
        expected = pipeline.process(scene(0), ["swap"], asked)
        assert expected.report.changed == 1
        face = expected.report.faces[0]
        assert face.kept == 1  # the guard measures and takes nothing back
        assert face.swapped is not None  # and what tells swapped faces has judged it
        assert expected.report.models["detect_swap"] == "swap_detection@1"
        assert torch.equal(decode(answers[-1].content), expected.photo)
    assert answers[0].content != answers[1].content


def test_it_is_off_by_default(store: ModelStore) -> None:
    assert "swap" not in Settings().steps
    other = InProcess(store, dataclasses.replace(Settings(store=store.uri), steps=("enhance",)))
    answer = post(other, "/v1/swap", files={"image": photo(0), "donor": photo(1)}, data=AGREED)
    assert answer.status_code == 404
    assert answer.json()["type"].endswith("not-served")
    assert "settings.steps" in answer.json()["detail"]


@pytest.mark.parametrize("consent", [{}, {"consent": "false"}, {"consent": ""}])
@pytest.mark.parametrize("path", ["/v1/swap", "/v1/process?steps=swap"])
def test_without_consent_nothing_is_done(service: InProcess, path: str, consent: dict[str, str]) -> None:
    answer = post(service, path, files={"image": photo(0), "donor": photo(1)}, data=consent)
    assert answer.status_code == 403
    assert answer.json()["type"].endswith("consent-needed")


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        ({"files": {"image": photo(0)}, "data": AGREED}, 400, "swap needs a donor"),
        ({"files": {"image": photo(0), "donor": b"nonsense"}, "data": AGREED}, 415, "donor's photo: This is not a"),
        ({"files": {"image": photo(0), "donor": encode(torch.zeros(3, 90, 90, dtype=torch.uint8), "png")},
          "data": AGREED}, 422, "The donor's photo: It shows no face"),
        ({"files": [("image", photo(0)), ("donor", photo(1)), ("donor", photo(2))], "data": AGREED}, 400, "donor"),
        ({"files": {"image": photo(0), "donor": photo(1)}, "data": {"consent": "perhaps"}}, 400, "true or false"),
        ({"files": {"donor": photo(1)}, "data": AGREED}, 400, "no field named image"),
        ({"files": [("image", photo(0))] * 3 + [("donor", photo(1))], "data": AGREED}, 400, "files is 3"),
        ({"content": photo(0)}, 400, "swap needs a donor"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(service: InProcess, what: dict[str, Any], status: int, message: str) -> None:
    answer = post(service, "/v1/swap", **what)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["detail"]


def test_a_donor_for_another_step_is_refused(tiny_store: ModelStore) -> None:
    other = InProcess(tiny_store, Settings(store=tiny_store.uri, steps=("enhance",)))
    for path in ("/v1/enhance", "/v1/detect", "/v1/parse"):
        answer = post(other, path, files={"image": photo(0), "donor": photo(1)})
        assert answer.status_code == 400
        assert "no step swaps" in answer.json()["detail"]


def test_a_swap_is_noted_in_the_log(service: InProcess, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    logging.getLogger("ray.serve").addHandler(caplog.handler)
    try:
        headers = {"x-request-id": "who-asked"}
        files = {"image": photo(0), "donor": photo(1)}
        post(service, "/v1/swap", files=files, data=AGREED, headers=headers)
    finally:
        logging.getLogger("ray.serve").removeHandler(caplog.handler)
    (line,) = {record.getMessage() for record in caplog.records if record.getMessage().startswith("swap:")}
    assert line == "swap: request who-asked of anybody (no API keys), 1 photo(s), consent stated"
    assert not any(
        record.args and any(isinstance(arg, (bytes, list)) for arg in record.args) for record in caplog.records
    )


def test_as_a_job_the_donor_is_kept_no_longer_than_the_job_runs(service: InProcess) -> None:
    async def run() -> tuple[bytes, Any]:
        async with client_of(service) as client:
            files = {"image": photo(0), "donor": photo(1)}
            headers = {"prefer": "respond-async"}
            taken = await client.post("/v1/swap?format=png", files=files, data=AGREED, headers=headers)
            assert taken.status_code == 202, taken.text
            where = taken.headers["location"]
            while (await client.get(where)).json()["finished"] is None:
                await asyncio.sleep(0.05)
            (job,) = service._jobs._jobs.values()
            return (await client.get(f"{where}/result")).content, job

    content, job = asyncio.run(run())
    at_once = post(service, "/v1/swap?format=png", files={"image": photo(0), "donor": photo(1)}, data=AGREED)
    assert same_pixels(content, at_once.content)
    assert job.request.params["donor"] is None


def test_the_client_sends_both_photos(service: InProcess) -> None:
    with served(service) as url, Client(url) as client:
        done = client.swap(photo(0), photo(1), consent=True, format="png")
        assert done.report["changed"] == 1
        with pytest.raises(ServiceError, match="consent-needed"):
            client.swap(photo(0), photo(1), consent=False)
        boxed = client.swap(photo(0), photo(1), consent=True, boxes=[[0, 0, 1000, 1000]])
        assert boxed.report["changed"] == 1
        with pytest.raises(RayfaceError, match=r"Client\.swap"):
            client.process(photo(0), "swap", donor=photo(1), consent=True)


def test_apply_asks_for_the_same(store: ModelStore, tmp_path: Path) -> None:
    source, donor, target = (tmp_path / name for name in ("photo.png", "donor.png", "swapped.png"))
    source.write_bytes(photo(0))
    donor.write_bytes(photo(1))
    with pytest.raises(RayfaceError, match="needs consent"):
        apply_steps(["swap"], str(source), str(target), store, [f"donor={donor}"])
    with pytest.raises(RayfaceError, match="cannot be read"):
        apply_steps(["swap"], str(source), str(target), store, [f"donor={donor}.jpg", "consent=true"])
    assert not target.exists()
    report = apply_steps(["swap"], str(source), str(target), store, [f"donor={donor}", "consent=true"])
    assert report["photos"][0]["changed"] == 1
    assert not torch.equal(decode(target.read_bytes()), scene(0))
