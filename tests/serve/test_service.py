"""The real service on a real Ray cluster, over real HTTP."""

import asyncio
import dataclasses
import email.parser
import email.policy
import json
import re
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from rayface.credentials import read_credentials
from rayface.imaging.codec import decode, encode
from rayface.pipeline import Pipeline
from rayface.records import FACIAL_HAIR
from rayface.store import ModelStore
from rayface.work import Params
from tests.scenes import same_pixels, scene
from tests.serve.browser import apply, bring, choose, needs_chromium, opened, started
from tests.serve.listening import start_serve
from tests.serve.logs import logged
from tests.tiny_models import save_tiny_models

pytestmark = pytest.mark.ray
MAX_IN_FLIGHT = 6
MAX_BYTES = 2_000_000
SYSTEMS = (
    "enhancement",
    "parsing",
    "super_resolution",
    "beauty",
    "facial_hair",
    "attribute_editing",
    "face_swap",
    "swap_detection",
)
STEPS = ["enhance", "upscale", "beautify", "facial_hair", "edit_attributes", "swap"]


@dataclass
class Running:
    client: httpx.Client
    url: str
    store: ModelStore


@pytest.fixture(scope="module")
def service(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    from ray import serve

    from serve.app import build

    store = save_tiny_models(tmp_path_factory.mktemp("store"), SYSTEMS)
    url = start_serve()
    args = {
        "store": store.uri,
        "max_in_flight": MAX_IN_FLIGHT,
        "limits": {"max_bytes": MAX_BYTES, "max_pixels": 1_000_000},
        "max_faces": 8,
        "steps": STEPS,
        "max_output_megapixels": 1.3,
        # Tiny networks are done before the next request arrives; held open for a moment, batches are shared.
        **{stage: {"max_batch": 8, "batch_wait_s": 0.05} for stage in ("detector", "step", "parser")},
    }
    serve.run(build(args), name="rayface", route_prefix="/")
    with httpx.Client(base_url=url, timeout=60) as client:
        yield Running(client, url, store)
    serve.shutdown()


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """A drawn face."""
    return scene(0)


@pytest.fixture(scope="module")
def png(photo: torch.Tensor) -> bytes:
    return encode(photo, "png")


def test_enhance_gives_the_pixels_of_the_pipeline_and_of_rayface_apply(
    service: Running, photo: torch.Tensor, png: bytes, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from rayface.cli import app

    answer = service.client.post(
        "/v1/enhance",
        content=png,
        headers={"content-type": "image/png", "accept": "image/png"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    served = decode(answer.content)
    expected = Pipeline.from_store(service.store).process(photo, ["enhance"])
    assert torch.equal(served, expected.photo)
    told = read_credentials(answer.content)
    assert (told["state"], told["actions"][1]["description"]) == ("valid", "enhance by rayface")
    assert expected.report.changed == 1, "the test photo must be one that changes"
    assert not torch.equal(served, photo)
    summary = json.loads(answer.headers["x-rayface-summary"])
    assert (summary["faces"], summary["changed"]) == (1, 1)
    assert summary["ms"] > 0

    (tmp_path / "in.png").write_bytes(png)
    arguments = ["apply", "enhance", str(tmp_path / "in.png"), str(tmp_path / "out.png")]
    outcome = CliRunner().invoke(app, [*arguments, "--store", service.store.uri])
    assert outcome.exit_code == 0, outcome.output
    assert torch.equal(decode((tmp_path / "out.png").read_bytes()), served)


@needs_chromium
def test_the_page_gives_the_pixels_of_the_pipeline(
    service: Running, photo: torch.Tensor, png: bytes, tmp_path: Path
) -> None:
    """As a job, with the report; tests/serve/test_page.py has the rest of the page."""
    with started() as browser, opened(browser, service.url) as page:
        bring(page, png)
        choose(page, "upscale", "enhance")
        page.get_by_text("File of the result").click()
        page.get_by_role("radio", name="PNG").check()
        apply(page)
        assert "1 face found, 1 changed. The photo is now 640" in page.inner_text("#told")
        with page.expect_download() as saved:
            page.get_by_role("link", name="Download the result").click()
        saved.value.save_as(tmp_path / "saved.png")
    expected = Pipeline.from_store(service.store, ["upscale", "enhance"]).process(photo, ["upscale", "enhance"])
    assert torch.equal(decode((tmp_path / "saved.png").read_bytes()), expected.photo)


def test_beautify_gives_the_pixels_of_the_pipeline_by_strength(
    service: Running, photo: torch.Tensor, png: bytes
) -> None:
    pipeline = Pipeline.from_store(service.store, ["beautify", "enhance"])

    def answer(path: str) -> torch.Tensor:
        answer = service.client.post(path, content=png, headers={"accept": "image/png"})
        assert answer.status_code == 200, answer.text
        return decode(answer.content)

    whole, half = answer("/v1/beautify"), answer("/v1/beautify?strength=0.5")
    assert torch.equal(whole, pipeline.process(photo, ["beautify"]).photo)
    assert torch.equal(answer("/v1/beautify?strength=0"), photo)
    changes = [(image.float() - photo.float()).abs().sum() for image in (half, whole)]
    assert 0.4 < float(changes[0] / changes[1]) < 0.6
    both = pipeline.process(photo, ["beautify", "enhance"])
    assert torch.equal(answer("/v1/process?steps=beautify,enhance"), both.photo)
    assert both.report.faces[0].steps == ["beautify", "enhance"]


def test_formats_forms_and_parameters(service: Running, photo: torch.Tensor, png: bytes) -> None:
    client = service.client
    jpeg = client.post("/v1/enhance", content=encode(photo, "jpeg"))
    assert jpeg.headers["content-type"] == "image/jpeg"
    assert decode(jpeg.content).shape == photo.shape
    webp = client.post("/v1/enhance?format=webp&quality=50", content=png)
    assert webp.headers["content-type"] == "image/webp"
    form = client.post("/v1/process?steps=enhance&format=png", files={"image": ("photo.png", png)})
    body = client.post("/v1/enhance?format=png", content=png)
    assert form.status_code == 200, form.text
    assert same_pixels(form.content, body.content)
    nothing = client.post("/v1/enhance?format=png&strength=0", content=png)
    assert torch.equal(decode(nothing.content), photo)
    assert json.loads(nothing.headers["x-rayface-summary"])["changed"] == 0


def test_the_report_comes_with_the_image_and_can_be_fetched(service: Running, png: bytes) -> None:
    headers = {"accept": "multipart/mixed, image/png", "x-request-id": "my-request-1"}
    answer = service.client.post("/v1/enhance", content=png, headers=headers)
    assert answer.headers.get_list("x-request-id") == ["my-request-1"]
    raw = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode() + answer.content
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(raw)
    parts: dict[str, Any] = {part.get_content_type(): part.get_payload(decode=True) for part in message.iter_parts()}
    assert list(parts) == ["image/png", "application/json"]
    report = json.loads(parts["application/json"])
    assert report["request_id"] == "my-request-1"
    assert report["models"]["enhance"] == "enhancement@1"
    assert report["faces"][0]["steps"] == ["enhance"]
    stages = {"decode", "detect", "enhance", "identify", "parse", "fuse", "encode", "sign", "total"}
    assert set(report["timings_ms"]) == stages
    fetched = service.client.get("/v1/reports/my-request-1")
    assert fetched.json() == report


def test_a_photo_without_faces_comes_back_unchanged_with_a_report(service: Running) -> None:
    plain = torch.full((3, 120, 160), 127, dtype=torch.uint8)
    answer = service.client.post("/v1/enhance?format=png", content=encode(plain, "png"))
    assert answer.status_code == 200
    assert torch.equal(decode(answer.content), plain)
    report = service.client.get(f"/v1/reports/{answer.headers['x-request-id']}").json()
    assert (report["faces"], report["changed"]) == ([], 0)
    assert report["notes"] == ["No face was found; the photo is unchanged."]


def test_facial_hair_gives_the_pixels_of_the_pipeline_by_style(
    service: Running, photo: torch.Tensor, png: bytes
) -> None:
    pipeline = Pipeline.from_store(service.store, ["facial_hair"])
    seen = []
    for style in FACIAL_HAIR:
        answer = service.client.post(f"/v1/facial-hair?style={style}&format=png", content=png)
        assert answer.status_code == 200, answer.text
        seen.append(decode(answer.content))
        assert torch.equal(seen[-1], pipeline.process(photo, ["facial_hair"], {"style": style}).photo)
    assert not torch.equal(seen[FACIAL_HAIR.index("full")], seen[FACIAL_HAIR.index("moustache")])
    together = service.client.post("/v1/process?steps=facial_hair&style=full&format=png", content=png)
    assert torch.equal(decode(together.content), seen[FACIAL_HAIR.index("full")])
    unknown = service.client.post("/v1/facial-hair?style=mutton-chops", content=png)
    check_problem(unknown, "invalid-request")
    assert "goatee" in unknown.json()["detail"]
    missing = service.client.post("/v1/process?steps=facial_hair", content=png)
    assert missing.status_code == 400
    assert "give style, one of: none, stubble, moustache, goatee, full" in missing.json()["detail"]


def test_attributes_give_the_pixels_of_the_pipeline(service: Running, photo: torch.Tensor, png: bytes) -> None:
    pipeline = Pipeline.from_store(service.store, ["edit_attributes"])
    answer = service.client.post("/v1/attributes?add=Smiling,Bangs&remove=Eyeglasses&format=png", content=png)
    assert answer.status_code == 200, answer.text
    asked = {"add": ["Smiling", "Bangs"], "remove": "Eyeglasses"}
    assert torch.equal(decode(answer.content), pipeline.process(photo, ["edit_attributes"], asked).photo)
    assert not torch.equal(decode(answer.content), photo)
    for query, said in (
        ("", "give add or remove, for example add=Smiling"),
        ("?add=Horns", "add is 'Horns'; give names among: 5_o_Clock_Shadow"),
        ("?add=Smiling&remove=Smiling", "Smiling is to be added and removed"),
        ("?add=Bald", "add is 'Bald'; attribute_editing@1 edits: Smiling"),
    ):
        refused = service.client.post(f"/v1/attributes{query}", content=png)
        assert refused.status_code in (400, 422), refused.text
        assert said in refused.json()["detail"]


def test_swaps_of_several_clients_have_each_its_own_donor(service: Running, photo: torch.Tensor, png: bytes) -> None:
    pipeline = Pipeline.from_store(service.store, ["swap"])
    donors = [encode(scene(index), "png") for index in (1, 2, 1)]

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            agreed = {"consent": "true"}
            requests = (
                client.post("/v1/swap?format=png", files={"image": png, "donor": donor}, data=agreed)
                for donor in donors
            )
            return await asyncio.gather(*requests)

    answers = asyncio.run(ask())
    for donor, answer in zip(donors, answers, strict=True):
        assert answer.status_code == 200, answer.text
        asked = Params(donor=pipeline.donor(donor), consent=True, faces="largest")
        assert torch.equal(decode(answer.content), pipeline.process(photo, ["swap"], asked).photo)
    assert answers[0].content != answers[1].content
    report = service.client.get(f"/v1/reports/{answers[0].headers['x-request-id']}").json()
    assert report["faces"][0]["swapped"] is not None
    assert report["models"]["detect_swap"] == "swap_detection@1"
    headers = {"prefer": "respond-async"}
    files = {"image": png, "donor": donors[1]}
    job = service.client.post("/v1/swap?format=png", files=files, data={"consent": "true"}, headers=headers)
    where = job.headers["location"]
    while service.client.get(where).json()["finished"] is None:
        time.sleep(0.05)
    assert same_pixels(service.client.get(f"{where}/result").content, answers[1].content)


def test_upscaling_gives_the_pixels_of_the_pipeline_within_the_limit(
    service: Running, photo: torch.Tensor, png: bytes
) -> None:
    local = Pipeline.from_store(service.store, ["enhance", "upscale"])
    for steps in ("upscale", "enhance,upscale"):
        answer = service.client.post(f"/v1/process?steps={steps}&format=png", content=png)
        assert answer.status_code == 200, answer.text
        expected = local.process(photo, steps.split(","))
        assert torch.equal(decode(answer.content), expected.photo)
        report = service.client.get(f"/v1/reports/{answer.headers['x-request-id']}").json()
        assert (report["width"], report["height"]) == (640, 480)
        assert (report["input_width"], report["input_height"]) == (320, 240)
        assert report["models"] == expected.report.models
        assert report["changed"] == expected.report.changed == (steps != "upscale")
    # x4 would be 1.2 megapixels; of a larger photo it is more than this service's 1.3, and x2 is not
    large = encode(torch.full((3, 400, 500), 127, dtype=torch.uint8), "png")
    answer = service.client.post("/v1/process?steps=upscale&scale=4&format=png", content=large)
    assert answer.status_code == 200, answer.text
    assert decode(answer.content).shape == (3, 800, 1000)
    (note,) = service.client.get(f"/v1/reports/{answer.headers['x-request-id']}").json()["notes"]
    assert "1.3 megapixels" in note
    wrong = service.client.post("/v1/process?steps=upscale&scale=3", content=png)
    check_problem(wrong, "invalid-request")


def test_detect_and_parse(service: Running, photo: torch.Tensor, png: bytes) -> None:
    import base64

    from rayface.imaging.codec import decode_mask
    from rayface.stages import detect_faces, parse_faces
    from rayface.work import Params, Photo

    local = Pipeline.from_store(service.store)
    (work,) = detect_faces(local.detector, [Photo.of(photo)], [Params()], 8)
    (work,) = parse_faces(local.parser, [work], [True])
    detected = service.client.post("/v1/detect", content=png).json()
    face = dataclasses.asdict(work.faces[0])
    assert detected["faces"] == [{key: face[key] for key in ("box", "landmarks", "score", "size")}]
    parsed = service.client.post("/v1/parse", content=png).json()
    mask = decode_mask(base64.b64decode(parsed["faces"][0]["mask_png"]))
    assert work.masks is not None
    assert np.array_equal(mask.numpy(), work.masks[0])
    assert np.allclose(parsed["faces"][0]["matrix"], work.matrices[0])
    assert parsed["classes"][1] == "skin"
    assert (parsed["width"], parsed["height"]) == (photo.shape[2], photo.shape[1])


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "kind", "detail"),
    [
        ("GET", "/nope", b"", {}, 404, "not-found", "/nope"),
        ("GET", "/v1/enhance", b"", {}, 405, "method-not-allowed", "GET"),
        ("GET", "/v1/reports/none", b"", {}, 404, "no-report", "none"),
        ("POST", "/v1/process", b"x", {}, 422, "invalid-request", "query.steps"),
        (
            "POST",
            "/v1/process?steps=age",
            b"x",
            {},
            400,
            "unknown-step",
            "known steps: beautify, edit_attributes, enhance",
        ),
        (
            "POST",
            "/v1/process?steps=,",
            b"x",
            {},
            400,
            "unknown-step",
            "known steps: beautify, edit_attributes, enhance",
        ),
        ("POST", "/v1/enhance?strength=2", b"x", {}, 422, "invalid-request", "query.strength"),
        ("POST", "/v1/enhance?faces=two", b"x", {}, 422, "invalid-request", "query.faces"),
        ("POST", "/v1/enhance?format=gif", b"x", {}, 422, "invalid-request", "query.format"),
        ("POST", "/v1/enhance", b"", {}, 400, "empty-image", "0 bytes"),
        ("POST", "/v1/enhance", b"not a picture", {}, 415, "not-an-image", "JPEG"),
        (
            "POST",
            "/v1/enhance",
            b"{}",
            {"content-type": "application/json"},
            415,
            "unsupported-media-type",
            "",
        ),
        ("POST", "/v1/enhance", b"x", {"accept": "text/html"}, 406, "not-acceptable", "image/png"),
        ("POST", "/v1/detect", b"x" * (MAX_BYTES + 1), {}, 413, "image-too-large", str(MAX_BYTES)),
    ],
)
def test_every_error_is_a_problem_document(
    service: Running,
    method: str,
    path: str,
    content: bytes,
    headers: dict[str, str],
    status: int,
    kind: str,
    detail: str,
) -> None:
    answer = service.client.request(method, path, content=content, headers=headers)
    assert answer.status_code == status
    check_problem(answer, kind)
    assert detail in answer.json()["detail"]


def check_problem(answer: httpx.Response, kind: str) -> None:
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) == {"type", "title", "status", "detail", "instance"}
    assert body["type"] == f"urn:rayface:problem:{kind}"
    assert body["status"] == answer.status_code
    assert body["instance"] == f"urn:rayface:request:{answer.headers['x-request-id']}"


def test_truncated_and_large_pictures(service: Running, png: bytes) -> None:
    truncated = service.client.post("/v1/enhance", content=png[: len(png) // 2])
    assert truncated.status_code == 422
    check_problem(truncated, "corrupt-image")
    large = encode(torch.zeros(3, 1100, 1000, dtype=torch.uint8), "png")
    answer = service.client.post("/v1/enhance", content=large)
    assert answer.status_code == 413
    check_problem(answer, "image-too-large")


def test_an_endless_body_is_answered_before_its_end(service: Running) -> None:
    """413 comes while a client that announced no length is still sending."""
    host, port = service.url.removeprefix("http://").split(":")
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    sent = 0
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"POST /v1/enhance HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not select.select([connection], [], [], 0.002)[0]:
            connection.sendall(chunk)
            sent += 65536
            assert sent < 100 * MAX_BYTES
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer
    assert sent > MAX_BYTES


def test_concurrent_requests_share_batches_and_the_rest_is_turned_away(service: Running, png: bytes) -> None:
    from ray import serve

    async def post(count: int) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            url = "/v1/enhance?format=png"
            return await asyncio.gather(*(client.post(url, content=png) for _ in range(count)))

    alone = service.client.post("/v1/enhance?format=png", content=png)
    fit = asyncio.run(post(MAX_IN_FLIGHT))
    assert [answer.status_code for answer in fit] == [200] * MAX_IN_FLIGHT
    assert same_pixels(alone.content, *(answer.content for answer in fit))

    def counts() -> list[dict[str, int]]:
        told = serve.get_deployment_handle("stages", "rayface").counts.remote().result()
        return [told[use] for use in ("detect", "enhance", "parse")]

    for _ in range(10):  # whether two requests meet at a stage is the scheduler's affair; in ten rounds they do
        if all(count["largest"] > 1 for count in counts()):
            break
        asyncio.run(post(MAX_IN_FLIGHT))
    for count in counts():
        assert count["requests"] > count["batches"]
        assert count["largest"] > 1

    # A burst beyond what the ingress works on and refuses at one time: those that wait in Ray Serve's proxy are
    # refused by the ingress too, not by the proxy.
    answers = asyncio.run(post(20 * MAX_IN_FLIGHT))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused, "nothing was turned away"
    assert len(refused) < len(answers)
    for answer in refused:
        assert answer.status_code == 503
        check_problem(answer, "overloaded")
        assert answer.headers["retry-after"] == "2"
    assert service.client.post("/v1/enhance", content=png).status_code == 200


def test_a_deployment_for_every_stage_gives_the_same(service: Running, png: bytes) -> None:
    """The layout `separate`, beside the other as a second application."""
    from ray import serve

    from serve.app import build

    args = {"store": service.store.uri, "steps": STEPS, "layout": "separate", "log_level": "INFO"}
    args["max_output_megapixels"] = 1.3
    serve.run(build(args), name="apart", route_prefix="/apart")
    try:
        for path in (
            "/v1/process?steps=upscale,beautify,enhance&format=png",
            "/v1/detect",
            "/v1/parse",
            "/v1/detect-swap",
        ):
            together = service.client.post(path, content=png)
            apart = service.client.post("/apart" + path, content=png)
            assert together.status_code == apart.status_code == 200, apart.text
            if together.headers["content-type"] == "image/png":
                assert same_pixels(together.content, apart.content), path
            else:
                assert together.content == apart.content, path
        form = {"files": {"image": png, "donor": encode(scene(1), "png")}, "data": {"consent": "true"}}
        together, apart = (service.client.post(f"{at}/v1/swap?format=png", **form) for at in ("", "/apart"))
        assert together.status_code == apart.status_code == 200, apart.text
        assert same_pixels(together.content, apart.content)
        enhanced = service.client.post("/apart/v1/enhance", content=png)
        report = service.client.get(f"/apart/v1/reports/{enhanced.headers['x-request-id']}").json()
        assert set(report["timings_ms"]) >= {"decode", "detect", "enhance", "identify", "parse", "fuse", "encode"}
        models = [service.client.get(f"{prefix}/v1/models").json() for prefix in ("", "/apart")]
        assert models[0] == models[1]
        health = service.client.get("/apart/healthz").json()["deployments"]
        apart_in_all = {
            "ingress",
            "detector",
            "enhancer",
            "upscaler",
            "beautifier",
            "facial_hair",
            "edit_attributes",
            "swapper",
            "guard",
            "parser",
            "swap_detector",
            "fusion",
            "reports",
        }
        assert set(health) == apart_in_all
        broken = service.client.post("/apart/v1/enhance", content=png[:2000])
        assert broken.status_code == 422
        check_problem(broken, "corrupt-image")
        stages = ("detector", "enhancer", "guard", "parser", "fusion")
        lines = logged("apart", "1 photo(s)")
        assert all(enhanced.headers["x-request-id"] in lines[stage] for stage in stages), (
            "its id is in every stage's log"
        )
        assert not any("" in lines[stage] for stage in stages), "a line about a photo without an id"
    finally:
        serve.delete("apart")


def test_models_health_page_and_openapi(service: Running) -> None:
    told = service.client.get("/v1/models").json()
    models = {model["use"]: model for model in told["models"]}
    assert told["steps"] == STEPS
    editor = service.store.info("attribute_editing")["config"]
    assert {use: model["attributes"] for use, model in models.items() if "attributes" in model} == {
        "edit_attributes": editor["attributes"]
    }
    assert set(models) == {"detect", "parse", "identify", "detect_swap", *STEPS}
    assert models["detect"]["licence"] == "MIT"
    info = service.store.info("enhancement")
    for key in ("name", "version", "licence", "commercial_use", "sha256", "metrics"):
        assert models["enhance"][key] == info[key]
    health = service.client.get("/healthz")
    assert health.status_code == 200
    assert health.json()["status"] == "ok"
    assert set(health.json()["deployments"]) == {"ingress", "stages", "reports"}
    for path in ("/", "/docs"):
        page = service.client.get(path)
        assert page.headers["content-type"].startswith("text/html")
        # The pages load nothing from elsewhere.
        assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page.text)
    paths: dict[str, Any] = service.client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/v1/process",
        "/v1/enhance",
        "/v1/beautify",
        "/v1/facial-hair",
        "/v1/attributes",
        "/v1/swap",
        "/v1/detect",
        "/v1/parse",
        "/v1/detect-swap",
        "/v1/reports/{identifier}",
        "/v1/jobs/{identifier}",
        "/v1/jobs/{identifier}/result",
        "/v1/models",
        "/healthz",
    }
    assert "multipart/form-data" in paths["/v1/enhance"]["post"]["requestBody"]["content"]
