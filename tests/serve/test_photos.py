"""Several photos in one request, over the pipeline in this process."""

import asyncio
import json
from typing import Any

import httpx
import torch

from rayface.credentials import read_credentials
from rayface.imaging.codec import decode, encode
from rayface.store import ModelStore
from serve.answers import Part, multipart_mixed
from serve.settings import Settings
from tests.scenes import same_pixels, scene
from tests.serve.in_process import Held, InProcess, client_of
from tests.serve.parts import parts_of


def several(*photos: bytes) -> Any:
    return [("image", (f"{index}.png", photo)) for index, photo in enumerate(photos)]


def settings(store: ModelStore, **given: Any) -> Settings:
    return Settings(store=store.uri, steps=("enhance",), **given)


def post(service: InProcess, path: str, photos: Any, **headers: str) -> httpx.Response:
    async def run() -> httpx.Response:
        async with client_of(service) as client:
            return await client.post(path, files=photos, headers=headers)

    return asyncio.run(run())


def test_each_photo_has_its_image_and_report_and_a_bad_one_its_problem(tiny_store: ModelStore) -> None:
    service = InProcess(tiny_store, settings(tiny_store))
    good = [scene(0), torch.full((3, 90, 120), 127, dtype=torch.uint8)]
    photos = several(encode(good[0], "png"), b"not a picture", b"", encode(good[1], "png"))

    async def run() -> tuple[httpx.Response, list[httpx.Response], Any]:
        async with client_of(service) as client:
            url = "/v1/enhance?format=png"
            together = await client.post(url, files=photos, headers={"x-request-id": "many"})
            alone = [await client.post(url, content=encode(photo, "png")) for photo in good]
            return together, alone, (await client.get("/v1/reports/many")).json()

    answer, alone, kept = asyncio.run(run())
    assert answer.status_code == 200
    parts = parts_of(answer)
    assert [(name, kind) for name, kind, _ in parts] == [
        ("image-0", "image/png"),
        ("report-0", "application/json"),
        ("problem-1", "application/problem+json"),
        ("problem-2", "application/problem+json"),
        ("image-3", "image/png"),
        ("report-3", "application/json"),
    ]
    assert same_pixels(parts[0][2], alone[0].content)
    assert same_pixels(parts[4][2], alone[1].content)
    told = [json.loads(content) for name, _, content in parts if not name.startswith("image")]
    assert [told[0]["changed"], told[3]["changed"]] == [1, 0]
    assert [(item["status"], item["type"].rpartition(":")[2]) for item in told[1:3]] == [
        (415, "not-an-image"),
        (400, "empty-image"),
    ]
    assert all(item["instance"] == "urn:rayface:request:many" for item in told[1:3])
    summary = json.loads(answer.headers["x-rayface-summary"])
    assert {key: summary[key] for key in ("photos", "failed", "faces", "changed")} == {
        "photos": 4, "failed": 2, "faces": 1, "changed": 1,
    }  # fmt: skip
    assert kept["photos"] == [{"report": told[0]}, {"problem": told[1]}, {"problem": told[2]}, {"report": told[3]}]


def test_whatever_is_answered_carries_credentials(tiny_store: ModelStore) -> None:
    service = InProcess(tiny_store, settings(tiny_store))
    changed, unchanged = scene(0), torch.full((3, 64, 64), 128, dtype=torch.uint8)

    async def run() -> list[httpx.Response]:
        async with client_of(service) as client:
            sent = [(format, photo) for format in ("jpeg", "png", "webp") for photo in (changed, unchanged)]
            many = {"files": [("image", encode(photo, "jpeg")) for _, photo in sent[:2]]}
            url = "/v1/enhance?format="
            alone = [await client.post(url + format, content=encode(photo)) for format, photo in sent]
            return [*alone, await client.post(url + "png", **many)]

    *alone, many = asyncio.run(run())
    parts = parts_of(many)
    pictures = [answer.content for answer in alone] + [content for _, kind, content in parts if kind == "image/png"]
    assert len(pictures) == 8
    for index, picture in enumerate(pictures):
        told = read_credentials(picture)
        assert (told["state"], told["signer"]) == ("valid", "rayface development signer")
        steps = [action["action"] for action in told["actions"]]
        assert ("c2pa.edited" in steps) == (index % 2 == 0), "only what was changed says so"
    report = json.loads(next(content for name, _, content in parts if name == "report-0"))
    assert report["signer"] == "rayface development signer"
    assert report["timings_ms"]["sign"] > 0


def test_detect_and_parse_give_lists(tiny_store: ModelStore, face_png: bytes) -> None:
    service = InProcess(tiny_store, settings(tiny_store))
    for path in ("/v1/detect", "/v1/parse"):
        alone = post(service, path, several(face_png)).json()
        assert len(alone["faces"]) == 1
        first, second, third = post(service, path, several(face_png, b"nonsense", face_png)).json()
        assert first == third == alone
        assert (second["status"], second["type"]) == (415, "urn:rayface:problem:not-an-image")


def test_photos_take_places_and_are_worked_on_together(tiny_store: ModelStore, face_png: bytes) -> None:
    async def run() -> None:
        service = Held(tiny_store, settings(tiny_store, max_in_flight=3))
        async with client_of(service) as client:
            two = asyncio.create_task(client.post("/v1/enhance", files=several(face_png, face_png)))
            while service.waiting < 2:
                await asyncio.sleep(0.01)
            refused = await client.post("/v1/enhance", files=several(face_png, face_png))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            one = asyncio.create_task(client.post("/v1/enhance", content=face_png))
            while service.waiting < 3:
                await asyncio.sleep(0.01)
            service.go.set()
            assert (await two).status_code == (await one).status_code == 200
            assert (await client.post("/v1/enhance", files=several(*[face_png] * 3))).status_code == 200
            four = await client.post("/v1/enhance", files=several(*[face_png] * 4))
            assert (four.status_code, four.json()["type"]) == (400, "urn:rayface:problem:bad-form")

    asyncio.run(run())


def test_the_report_of_one_photo_comes_with_it_on_request(tiny_store: ModelStore, face_png: bytes) -> None:
    service = InProcess(tiny_store, settings(tiny_store))
    answer = post(service, "/v1/enhance", several(face_png), accept="multipart/mixed, image/webp")
    assert [(name, kind) for name, kind, _ in parts_of(answer)] == [("", "image/webp"), ("", "application/json")]
    assert decode(parts_of(answer)[0][2]).shape == scene(0).shape


def test_multipart_mixed_is_read_back_by_the_standard_parser() -> None:
    parts = [Part("image/png", b"\x89PNG\r\n\x1a\n\x00--"), Part("application/json", b"{}", 'inline; name="report"')]
    body, content_type = multipart_mixed(parts)
    answer = httpx.Response(200, headers={"content-type": content_type}, content=body)
    assert parts_of(answer) == [("", "image/png", parts[0].data), ("report", "application/json", b"{}")]
