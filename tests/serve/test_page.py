"""The page at `/` in a real browser, over the pipeline in this process."""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from rayface.imaging.codec import decode, encode
from rayface.pipeline import Pipeline
from rayface.store import ModelStore
from rayface.systems.base import get_system
from serve.keys import digest
from serve.settings import Settings
from tests.scenes import scene
from tests.serve.browser import apply, bring, choose, needs_chromium, opened, started
from tests.serve.in_process import Held, InProcess, served
from tests.tiny_models import save_tiny_models

pytestmark = needs_chromium
SYSTEMS = ("enhancement", "parsing", "super_resolution", "beauty", "facial_hair", "attribute_editing", "face_swap")
STEPS = ("enhance", "upscale", "beautify", "facial_hair", "edit_attributes", "swap")
PHOTO = encode(scene(0), "png")
GROUP = encode(scene(0, 2), "png")
MAX_BYTES = 1_000_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return save_tiny_models(tmp_path_factory.mktemp("page"), SYSTEMS)


@pytest.fixture(scope="module")
def service(store: ModelStore) -> Held:
    from rayface.imaging.codec import Limits

    limits = Limits(MAX_BYTES, 4_000_000)
    held = Held(store, Settings(store=store.uri, steps=STEPS, max_jobs=1, limits=limits))
    held.go.set()
    return held


@pytest.fixture(scope="module")
def url(service: Held) -> Iterator[str]:
    with served(service) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, url) as page:
        yield page


def asked(page: Page) -> dict[str, str]:
    """The parameters of the request that Apply makes."""
    with page.expect_request("**/v1/process?*") as sent:
        apply(page)
    return {name: value for name, (value,) in parse_qs(urlsplit(sent.value.url).query).items()}


def given(page: Page, event: str, where: str, photo: bytes, name: str = "holiday.png") -> None:
    """A photo as what a drop or a paste brings."""
    page.evaluate(
        """([event, where, data, name]) => {
            const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
            const brought = new DataTransfer();
            brought.items.add(new File([bytes], name, { type: "image/png" }));
            const options = { bubbles: true, cancelable: true };
            document.querySelector(where).dispatchEvent(event === "paste"
                ? new ClipboardEvent(event, { ...options, clipboardData: brought })
                : new DragEvent(event, { ...options, dataTransfer: brought }));
        }""",
        [event, where, base64.b64encode(photo).decode(), name],
    )


@pytest.mark.parametrize(("event", "where"), [("drop", "#drop"), ("paste", "body")])
def test_a_photo_is_brought_enhanced_and_saved(
    page: Page, store: ModelStore, tmp_path: Path, event: str, where: str
) -> None:
    given(page, event, where, PHOTO)
    page.get_by_text("File of the result").click()
    page.get_by_role("radio", name="PNG").check()
    assert asked(page) == {"steps": "enhance", "strength": "1", "faces": "all", "format": "png"}
    expect(page.get_by_role("status").first).to_contain_text("Done. 1 face found, 1 changed.")
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download the result").click()
    assert saved.value.suggested_filename == "holiday-enhance.png"
    saved.value.save_as(tmp_path / "saved.png")
    expected = Pipeline.from_store(store, ["enhance"]).process(scene(0), ["enhance"])
    assert torch.equal(decode((tmp_path / "saved.png").read_bytes()), expected.photo)
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download the report (JSON)").click()
    saved.value.save_as(tmp_path / "report.json")
    assert saved.value.suggested_filename == "holiday-enhance.json"
    assert json.loads((tmp_path / "report.json").read_text())["changed"] == 1


def test_the_service_forgets_the_photo_once_the_page_has_the_result(page: Page, service: Held) -> None:
    bring(page, PHOTO)
    with page.expect_response(lambda answer: answer.request.method == "DELETE") as forgotten:
        apply(page)
    assert forgotten.value.status == 204
    assert not service._jobs._jobs


def test_steps_and_options_are_what_is_asked_for(page: Page) -> None:
    bring(page, PHOTO)
    boxes = page.locator("input[name=step]")
    assert {box.get_attribute("value") for box in boxes.all()} == set(STEPS)
    choose(page, "upscale", "enhance", "edit_attributes", "facial_hair")
    page.get_by_role("radio", name="4 times").check()
    page.get_by_role("radio", name="Goatee").check()
    offered = [box.get_attribute("value") for box in page.locator("input[name=add]").all()]
    assert offered == list(get_system("attribute_editing").config("tiny").attributes)
    page.get_by_label("Remove: Smiling").check()
    page.get_by_label("Add: Smiling").check()  # and with that no longer removed
    page.get_by_label("Remove: Eyeglasses").check()
    page.get_by_label("Strength").fill("0.4")
    page.get_by_role("radio", name="The largest").check()
    page.get_by_text("File of the result").click()
    page.get_by_role("radio", name="WebP").check()
    page.get_by_label("Quality").fill("70")
    page.get_by_label("Facial hair: earlier").click()
    query = asked(page)
    assert query == {
        "steps": "upscale,enhance,facial_hair,edit_attributes", "scale": "4", "style": "goatee", "add": "Smiling",
        "remove": "Eyeglasses", "strength": "0.4", "faces": "largest", "format": "webp", "quality": "70",
    }  # fmt: skip
    assert "webp" in (page.get_by_role("link", name="Download the result").get_attribute("download") or "")


def test_what_is_missing_is_said_at_the_button(page: Page) -> None:
    missing = page.locator("#missing")
    page.get_by_role("button", name="Apply").click()
    expect(missing).to_have_text("Choose a photo first.")
    bring(page, PHOTO)
    for steps, words in ((), "at least one step"), (("edit_attributes",), "added or taken away"):
        choose(page, *steps)
        page.get_by_role("button", name="Apply").click()
        expect(missing).to_contain_text(words)
    assert page.evaluate("document.activeElement.name") == "add"


def test_a_swap_needs_a_donor_and_consent(page: Page) -> None:
    bring(page, GROUP)
    choose(page, "swap")
    missing, start = page.locator("#missing"), page.get_by_role("button", name="Apply")
    start.click()
    expect(missing).to_contain_text("photo of the other person")
    page.set_input_files("#donor", {"name": "donor.png", "mimeType": "image/png", "buffer": PHOTO})
    start.click()
    expect(missing).to_contain_text("agreed")
    page.get_by_label("The people in both photos agreed to this.").check()
    page.get_by_role("radio", name="The largest").check()
    assert asked(page)["steps"] == "swap"
    expect(page.locator("#told")).to_contain_text("2 faces found, 1 changed.")
    expect(page.locator("#told")).to_contain_text("Swapped.")


def test_only_what_is_served_is_offered(browser: Browser, store: ModelStore) -> None:
    with (
        served(InProcess(store, Settings(store=store.uri, steps=("upscale",)))) as address,
        opened(browser, address) as page,
    ):
        assert [box.get_attribute("value") for box in page.locator("input[name=step]").all()] == ["upscale"]
        expect(page.locator("#for-faces")).to_be_hidden()
        bring(page, PHOTO)
        assert asked(page) == {"steps": "upscale", "scale": "2", "format": "jpeg", "quality": "92"}
        expect(page.locator("#told")).to_contain_text("now 640 \u00d7 480 pixels")


def test_keys_alone_will_do(page: Page, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(PHOTO)

    def tab_to(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id || document.activeElement.value") == name:
                assert page.evaluate("document.activeElement.matches(':focus-visible')")
                return
        raise AssertionError(f"the focus never came to {name}")

    tab_to("choose")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(tmp_path / "photo.png")
    page.get_by_role("button", name="Another photo").wait_for()
    tab_to("upscale")
    page.keyboard.press("Space")
    tab_to("start")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Result").wait_for()
    expect(page.get_by_role("heading", name="Result")).to_be_focused()
    page.keyboard.press("Tab")
    slider = page.get_by_role("slider", name="Divider between before and after")
    expect(slider).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_value("51")
    expect(slider).to_have_attribute("aria-valuetext", "51 % before, 49 % after")
    page.keyboard.press("Home")
    assert page.evaluate("getComputedStyle(document.getElementById('after-layer')).clipPath") == "inset(0px 0px 0px 0%)"
    tab_to("save")
    with page.expect_download():
        page.keyboard.press("Enter")


def test_mouse_and_fingers_move_the_divider(browser: Browser, url: str) -> None:
    with opened(browser, url, has_touch=True) as page:
        bring(page, PHOTO)
        apply(page)
        slider, frame = page.locator("#slider"), page.locator("#frame")
        frame.scroll_into_view_if_needed()
        box = frame.bounding_box()
        assert box is not None
        left, width, middle = box["x"], box["width"], box["y"] + box["height"] / 2
        page.mouse.move(left + width / 2, middle)
        page.mouse.down()
        page.mouse.move(left + width / 5, middle, steps=3)
        page.mouse.up()
        page.mouse.move(left + width / 3, middle)  # let go: it stays
        expect(slider).to_have_value("20")
        page.touchscreen.tap(left + 0.75 * width, middle)
        expect(slider).to_have_value("75")


def test_an_upright_photo_and_its_enlarged_result_lie_on_each_other(page: Page) -> None:
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.open(io.BytesIO(PHOTO)).transpose(Image.Transpose.ROTATE_90).save(turned, "jpeg", exif=exif, quality=95)
    bring(page, turned.getvalue(), "turned.jpg")
    choose(page, "upscale")
    apply(page)
    sizes = "[...document.querySelectorAll('.layer img')].map(one => [one.naturalWidth, one.naturalHeight])"
    assert page.evaluate(sizes) == [[320, 240], [640, 480]]
    before, after = (page.locator(name).bounding_box() for name in ("#before", "#after"))
    assert before == after
    assert before is not None
    assert before["width"] / before["height"] == pytest.approx(320 / 240, rel=1e-3)


def test_the_report_in_plain_words(page: Page) -> None:
    bring(page, GROUP)
    apply(page)
    told = page.locator("#told")
    expect(told).to_contain_text(re.compile(r"2 faces found, \d changed\. It took [\d.]+ m?s\."))
    expect(told).to_contain_text("signed by “rayface development signer”")
    assert told.get_by_role("listitem").count() >= 2
    told.get_by_role("button", name="Show face 1 large").click()
    assert "scale" in page.evaluate("document.getElementById('frame').style.getPropertyValue('--look')")
    page.get_by_role("button", name="Show the whole photo").click()
    told.get_by_text("Where the time went").click()
    expect(told.get_by_role("row", name=re.compile("Finding faces .* m?s"))).to_be_visible()


@pytest.mark.parametrize(
    ("face", "words"),
    [
        ({"steps": ["enhance", "beautify"], "similarity": 0.991},
         ["Made clearer, then made more attractive.", "Still the same person (similarity to the original 0.99 of 1)"]),
        ({"steps": ["enhance"], "similarity": 0.4, "kept": 0.625},
         ["Made clearer.", "(similarity to the original 0.40 of 1); the identity guard kept 63 % of it"]),
        ({"similarity": 0.1, "kept": 0, "skipped": [{"step": "enhance", "reason": "identity: the recogniser ..."}]},
         ["Left as it was: the change showed somebody else (similarity to the original 0.10 of 1)"]),
        ({"skipped": [{"step": "all", "reason": "not the largest face"}]}, ["Left as it was: not the largest face."]),
        ({"skipped": [{"step": "enhance", "reason": "strength is 0"}]}, ["Enhance was left out: strength is 0."]),
        ({"steps": ["swap"], "similarity": 0.2, "swapped": 0.97},
         ["Swapped.", "Similarity to the original 0.20 of 1.", "says 97 % that this face was swapped"]),
    ],
)  # fmt: skip
def test_what_is_said_of_a_face(page: Page, face: dict[str, Any], words: list[str]) -> None:
    full = {"steps": [], "skipped": [], "similarity": None, "kept": 1, "swapped": None, **face}
    said = page.evaluate("async face => (await import('./page/report.js')).faceWords(face)", full)
    assert all(part in one for part, one in zip(words, said, strict=True)), said


def test_what_is_wrong_with_a_photo_is_said_and_another_one_may_follow(page: Page) -> None:
    alert = page.locator("#error")
    for photo, words in [
        (b"nothing", "This file is no photo that the service can read"),
        (PHOTO[: len(PHOTO) // 2], "The photo is damaged"),
        (PHOTO + bytes(MAX_BYTES), "The image is larger than 1.0 MB"),
    ]:
        bring(page, photo)
        page.get_by_role("button", name="Apply").click()
        expect(alert).to_contain_text(words)
        expect(page.get_by_role("button", name="Apply")).to_be_focused()
    bring(page, PHOTO)
    expect(alert).to_be_empty()
    apply(page)


def test_a_service_that_went_away_is_named(page: Page) -> None:
    bring(page, PHOTO)
    page.context.set_offline(True)
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("#error")).to_contain_text("The service cannot be reached")


def test_cancel_ends_the_work_at_the_service(page: Page, service: Held) -> None:
    before = service.cancelled
    service.go.clear()
    try:
        bring(page, PHOTO)
        page.get_by_role("button", name="Apply").click()
        expect(page.get_by_text("Working on it").first).to_be_visible()
        expect(page.get_by_role("progressbar")).to_be_visible()
        expect(page.get_by_role("button", name="Cancel")).to_be_focused()
        with page.expect_response(lambda answer: answer.request.method == "DELETE"):
            page.keyboard.press("Enter")
        expect(page.get_by_role("status").first).to_have_text("Cancelled.")
        expect(page.get_by_role("button", name="Apply")).to_be_focused()
        assert service.cancelled == before + 1
    finally:
        service.go.set()
        service._jobs._jobs.clear()


def test_a_busy_service_is_asked_again(page: Page, url: str, service: Held) -> None:
    service.go.clear()
    taken = httpx.post(f"{url}/v1/enhance", content=PHOTO, headers={"prefer": "respond-async"})
    bring(page, PHOTO)
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_text("The service is busy; trying again in 2 s").first).to_be_visible()
    service.go.set()
    httpx.delete(f"{url}{taken.headers['location']}")
    page.get_by_role("heading", name="Result").wait_for()


def test_a_key_is_asked_for_where_one_is_needed(browser: Browser, store: ModelStore) -> None:
    settings = Settings(store=store.uri, steps=("enhance",), api_keys={"ann": digest("rf_ann")})
    with served(InProcess(store, settings)) as address, opened(browser, address) as page:
        expect(page.locator("#bench")).to_be_hidden()
        for key in ("rf_wrong", "rf_ann"):
            page.get_by_label("Key", exact=True).fill(key)
            page.keyboard.press("Enter")
            if key == "rf_wrong":
                expect(page.locator("#ask-why")).to_contain_text("The API key is unknown")
        expect(page.locator("#bench")).to_be_visible()
        bring(page, PHOTO)
        apply(page)


def test_a_photo_is_taken_by_the_camera(page: Page) -> None:
    page.get_by_role("button", name="Take a photo").click()
    page.get_by_role("button", name="Take it").click()
    expect(page.locator("#caption")).to_contain_text("camera.jpg")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.evaluate("document.getElementById('video').srcObject") is None


def test_where_there_is_no_camera_the_page_says_why(page: Page) -> None:
    page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
    page.get_by_role("button", name="Take a photo").click()
    expect(page.get_by_role("dialog")).to_contain_text("only over https")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_a_phone_opens_its_own_camera(browser: Browser, url: str) -> None:
    with opened(browser, url, has_touch=True, is_mobile=True, viewport={"width": 390, "height": 800}) as page:
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Take a photo").click()
        assert chooser.value.element.get_attribute("capture") == "user"


def wide(page: Page) -> None:
    """Nothing is wider than the window."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 640, 1280])  # 640: 1280 at a zoom of 200 %
def test_it_fits_and_keeps_the_rules_of_accessibility(
    browser: Browser, url: str, service: Held, width: int, scheme: str
) -> None:
    def fine(state: str) -> None:
        wide(page)
        found = Axe().run(page).response["violations"]
        assert not found, (state, [(one["id"], [node["html"] for node in one["nodes"]]) for one in found])
        small = page.evaluate(
            """[...document.querySelectorAll("button, a.button, summary, .chip, input:not(.chip *)")]
                .filter(one => one.checkVisibility())
                .map(one => one.closest("label") || one)
                .filter(target => Math.min(target.offsetWidth, target.offsetHeight) < 24)
                .map(target => target.outerHTML)"""
        )
        assert not small, (state, small)

    view = {"width": width, "height": 800}
    with opened(browser, url, viewport=view, color_scheme=scheme) as page:
        fine("empty")
        for summary in page.locator("details > summary").all():
            if summary.is_visible():
                summary.click()
        choose(page, *STEPS)
        fine("every option")
        choose(page, "enhance", "upscale")
        bring(page, GROUP)
        service.go.clear()
        page.get_by_role("button", name="Apply").click()
        expect(page.get_by_text("Working on it").first).to_be_visible()
        fine("working")
        service.go.set()
        page.get_by_role("heading", name="Result").wait_for()
        page.get_by_text("Where the time went").click()
        fine("result")
        bring(page, b"nothing")
        page.get_by_role("button", name="Apply").click()
        expect(page.locator("#error")).to_contain_text("no photo")
        fine("error")


def test_terms_of_one_long_word_do_not_widen_the_page(browser: Browser, url: str) -> None:
    word = "pretrained:" + "x" * 120

    def long_terms(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        for model in body["models"]:
            model["terms"] = word
        route.fulfill(response=answer, json=body)

    with opened(browser, url, viewport={"width": 360, "height": 800}) as page:
        page.route("**/v1/models", long_terms)
        page.reload()
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        expect(page.get_by_text(word).first).to_be_visible()
        wide(page)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_may_load_nothing_from_elsewhere(url: str, path: str) -> None:
    answer = httpx.get(url + path)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for file in re.findall(r'(?:src|href)="(page/[^"]+)"', answer.text):
        found = httpx.get(f"{url}/{file}")
        assert found.status_code == 200
        assert found.headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{url}/page/missing.js").status_code == 404


def test_the_description_lists_every_route(page: Page, url: str) -> None:
    page.goto(f"{url}/docs")
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    listed = page.locator("#routes h2")
    expect(listed).to_have_count(sum(map(len, paths.values())))
    expect(listed.filter(has_text="POST /v1/process")).to_have_count(1)
