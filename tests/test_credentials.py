"""Content credentials: signed, read, and what becomes of those that come in."""

import dataclasses
import io
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from rayface import certificates
from rayface.certificates import CHAIN_FILE, KEY_FILE, ROOT_FILE, new_certificate, write_certificate
from rayface.credentials import SOURCE_TYPE, CredentialSettings, Signer, read_credentials, xmp
from rayface.errors import RayfaceError
from rayface.imaging.codec import PhotoFormat, decode, encode
from rayface.work import FaceReport, Report
from tests.scenes import scene

FORMATS: tuple[PhotoFormat, ...] = ("jpeg", "png", "webp")


def report(*steps: str, kept: float = 1.0, enlarged: int = 1) -> dict[str, Any]:
    """Of a photo with one face, to which all `steps` were applied."""
    face = FaceReport([0, 0, 9, 9], [[0, 0]] * 5, 1.0, 9, steps=list(steps), kept=kept)
    models = {step: f"{step}_model@r1" for step in steps}
    return dataclasses.asdict(Report(64 * enlarged, 64, 64, 64, list(steps), [face], 1, models, {}))


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return scene(0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths by file name."""
    return {Path(path).name: path for path in write_certificate(str(tmp_path_factory.mktemp("certificate")))}


@pytest.fixture(scope="module")
def signer(certificate: dict[str, str]) -> Signer:
    return Signer(CredentialSettings(certificate[CHAIN_FILE], certificate[KEY_FILE]))


@pytest.mark.parametrize("format", FORMATS)
def test_a_result_says_what_was_done_to_it_and_by_whom(
    format: PhotoFormat, photo: torch.Tensor, signer: Signer, certificate: dict[str, str]
) -> None:
    done, original = report("beautify"), encode(photo, "png")
    plain = encode(photo, format, xmp=xmp(done))
    signed = signer.sign(plain, format, done, original)

    told = read_credentials(signed, Path(certificate[ROOT_FILE]).read_text())
    assert told["state"] == "trusted"
    assert told["signer"] == "rayface development signer"
    assert [each["action"] for each in told["actions"]] == ["c2pa.opened", "c2pa.edited", "c2pa.transcoded"]
    edited = told["actions"][1]
    assert edited["digitalSourceType"] == SOURCE_TYPE
    assert edited["parameters"] == {"rayface.step": "beautify", "rayface.model": "beautify_model@r1"}
    (parent,) = told["parents"]
    assert (parent["format"], parent["signed"], parent["failures"]) == ("image/png", False, [])
    assert read_credentials(signed)["state"] == "valid"  # nobody said whom to trust
    assert torch.equal(decode(signed), decode(plain))


@pytest.mark.parametrize("format", FORMATS)
def test_a_reader_of_xmp_finds_the_source_type(format: PhotoFormat, photo: torch.Tensor, signer: Signer) -> None:
    done = report("enhance")
    signed = signer.sign(encode(photo, format, xmp=xmp(done)), format, done, encode(photo))
    packet = Image.open(io.BytesIO(signed)).info["XML:com.adobe.xmp" if format == "png" else "xmp"]
    described = next(ElementTree.fromstring(packet).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"))
    assert described.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == SOURCE_TYPE


@pytest.mark.parametrize("format", FORMATS)
def test_a_picture_that_was_tampered_with_fails(format: PhotoFormat, photo: torch.Tensor, signer: Signer) -> None:
    signed = bytearray(signer.sign(encode(photo, format), format, report("enhance"), encode(photo)))
    signed[-len(signed) // 4] ^= 1
    told = read_credentials(bytes(signed))
    assert told["state"] == "invalid"
    assert told["failures"] == ["assertion.dataHash.mismatch"]


def test_one_pixel_changed_by_an_editor_leaves_no_valid_credentials(photo: torch.Tensor, signer: Signer) -> None:
    signed = signer.sign(encode(photo, "png"), "png", report("enhance"), encode(photo))
    changed = decode(signed)
    changed[:, 0, 0] ^= 1
    assert read_credentials(encode(changed, "png"))["state"] == "none"


@pytest.mark.parametrize("came_as", FORMATS)
@pytest.mark.parametrize("goes_as", FORMATS)
def test_credentials_that_come_in_stay(
    came_as: PhotoFormat, goes_as: PhotoFormat, photo: torch.Tensor, signer: Signer
) -> None:
    first = signer.sign(encode(photo, came_as), came_as, report("enhance"), encode(photo))
    second = signer.sign(encode(photo, goes_as), goes_as, report("beautify"), first)
    told = read_credentials(second)
    assert told["state"] == "valid"
    (parent,) = told["parents"]
    assert parent == {
        "title": "the photo as it came", "format": f"image/{came_as}", "signed": True, "failures": []
    }  # fmt: skip
    assert second.count(b"enhance_model@r1") >= 1  # what was said of the first is inside the second


def test_credentials_that_come_in_broken_stay_broken(photo: torch.Tensor, signer: Signer) -> None:
    first = bytearray(signer.sign(encode(photo, "png"), "png", report("enhance"), encode(photo)))
    first[-len(first) // 4] ^= 1
    told = read_credentials(signer.sign(encode(photo, "png"), "png", report("beautify"), bytes(first)))
    assert told["state"] == "valid"  # ours; what came in is not vouched for
    assert told["parents"][0]["failures"] == ["assertion.dataHash.mismatch"]


def test_nothing_of_the_original_goes_along(photo: torch.Tensor, signer: Signer) -> None:
    original, plain = encode(photo, "jpeg"), encode(photo // 2, "jpeg")
    signed = signer.sign(plain, "jpeg", report("beautify"), original)
    assert b"thumbnail" not in signed
    assert len(signed) - len(plain) < 6000
    assert original[len(original) // 2 :][:64] not in signed


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "GIF"])
def test_originals_of_other_kinds(kind: str, photo: torch.Tensor, signer: Signer) -> None:
    original = io.BytesIO()
    Image.fromarray(photo.permute(1, 2, 0).numpy()).save(original, kind)
    told = read_credentials(signer.sign(encode(photo, "png"), "png", report("enhance"), original.getvalue()))
    assert told["state"] == "valid"
    assert len(told["parents"]) == 1


@pytest.mark.parametrize("seed", range(20))
def test_originals_with_mangled_credentials_are_no_reason_to_fail(
    seed: int, photo: torch.Tensor, signer: Signer
) -> None:
    signed = bytearray(signer.sign(encode(photo, "jpeg"), "jpeg", report("enhance"), encode(photo)))
    random = torch.Generator().manual_seed(seed)
    start = signed.index(b"jumb")
    for place in torch.randint(start, start + 3000, (1 + seed,), generator=random).tolist():
        signed[place] ^= 1 + seed
    again = signer.sign(encode(photo, "jpeg"), "jpeg", report("beautify"), bytes(signed))
    assert read_credentials(again)["state"] == "valid"


@pytest.mark.parametrize(
    ("done", "wanted"),
    [
        (report("enhance"), ["enhance"]),
        (report("upscale", enlarged=2), ["upscale"]),
        (report("upscale", "enhance", enlarged=2), ["upscale", "enhance"]),
        (report("upscale", "enhance"), ["enhance"]),  # too large to be enlarged
        (report("beautify", kept=0.0), []),  # the guard took it back
    ],
)
def test_only_what_was_done_is_told(
    done: dict[str, Any], wanted: list[str], photo: torch.Tensor, signer: Signer
) -> None:
    told = read_credentials(signer.sign(encode(photo), "png", done, encode(photo)))
    edits = told["actions"][1:-1]
    assert [edit["parameters"]["rayface.step"] for edit in edits] == wanted
    assert {edit["digitalSourceType"] for edit in edits} <= {SOURCE_TYPE}
    assert (SOURCE_TYPE.encode() in xmp(done)) == bool(wanted)


def with_author_and_thumbnail(photo: bytes, certificate: dict[str, str]) -> bytes:
    """As a camera's program signs: an author, and a picture within the picture."""
    import c2pa

    chain, key = (Path(certificate[name]).read_bytes() for name in (CHAIN_FILE, KEY_FILE))
    taken = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
    author = {"@context": "https://schema.org", "@type": "CreativeWork", "author": [{"@type": "Person", "name": "Ada"}]}
    made = {
        "title": "photo",
        "thumbnail": {"format": "image/jpeg", "identifier": "small"},
        "assertions": [
            {"label": "stds.schema-org.CreativeWork", "data": author},
            {"label": "c2pa.actions.v2", "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": taken}]}},
        ],
    }
    signed = io.BytesIO()
    with c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", chain, key, None)) as by, c2pa.Builder(made) as builder:
        builder.add_resource("small", io.BytesIO(b"a small picture of the original"))
        builder.sign(by, "image/png", io.BytesIO(photo), signed)
    return signed.getvalue()


@pytest.mark.parametrize("kept", [True, False])
def test_what_a_photo_came_with_goes_along_unless_that_is_not_wanted(
    kept: bool, photo: torch.Tensor, certificate: dict[str, str]
) -> None:
    came = with_author_and_thumbnail(encode(photo), certificate)
    assert b"Ada" in came
    assert b"a small picture" in came
    signer = Signer(CredentialSettings(certificate[CHAIN_FILE], certificate[KEY_FILE], keep_incoming=kept))
    signed = signer.sign(encode(photo), "png", report("beautify"), came)
    assert (b"Ada" in signed, b"a small picture" in signed) == (kept, kept)
    assert [parent["signed"] for parent in read_credentials(signed)["parents"]] == [kept]


def test_without_settings_a_certificate_is_made_anew(photo: torch.Tensor, certificate: dict[str, str]) -> None:
    signed = Signer().sign(encode(photo), "png", report("enhance"), encode(photo))
    assert read_credentials(signed)["state"] == "valid"
    assert read_credentials(signed, Path(certificate[ROOT_FILE]).read_text())["state"] == "valid"  # another root


def test_what_is_no_picture_has_no_credentials(photo: torch.Tensor) -> None:
    assert read_credentials(encode(photo))["state"] == "none"
    with pytest.raises(RayfaceError, match="JPEG, PNG and WebP"):
        read_credentials(b"GIF89a")


def test_certificates_that_cannot_sign(
    tmp_path: Path, certificate: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = certificate[CHAIN_FILE], certificate[KEY_FILE]
    with pytest.raises(RayfaceError, match=r"without credentials\.key"):
        CredentialSettings(certificate=chain)
    with pytest.raises(RayfaceError, match="cannot be read"):
        Signer(CredentialSettings(chain, str(tmp_path / "none.pem")))
    text = tmp_path / "text.pem"
    text.write_text("a key")
    with pytest.raises(RayfaceError, match="no PEM file"):
        Signer(CredentialSettings(chain, str(text)))
    text.write_bytes(new_certificate()[KEY_FILE])
    with pytest.raises(RayfaceError, match="not that of the first certificate"):
        Signer(CredentialSettings(chain, str(text)))
    with pytest.raises(RayfaceError, match="cannot be used"):
        Signer(CredentialSettings(chain, chain))
    by_itself = write_self_signed(tmp_path)
    with pytest.raises(RayfaceError, match="cannot sign content credentials"):
        Signer(CredentialSettings(*by_itself))
    monkeypatch.setattr(certificates, "datetime", _In(days=400))
    with pytest.raises(RayfaceError, match="ran out on"):
        Signer(CredentialSettings(chain, key))


def test_a_time_stamp_authority_that_does_not_answer(photo: torch.Tensor, certificate: dict[str, str]) -> None:
    settings = CredentialSettings(certificate[CHAIN_FILE], certificate[KEY_FILE], "http://127.0.0.1:9/stamp")
    signer = Signer(settings)
    own = Signer().sign(encode(photo), "png", report("enhance"), encode(photo))
    for original in (encode(photo), own):
        with pytest.raises(RayfaceError, match="credentials") as caught:
            signer.sign(encode(photo), "png", report("enhance"), original)
        assert (caught.value.status, caught.value.kind) == (503, "not-signed")


def test_a_fault_that_passes_costs_no_photo_its_credentials(
    photo: torch.Tensor, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where the photo's own credentials are at fault are they left out."""
    import c2pa

    came, whole, failed = signer.sign(encode(photo), "png", report("enhance"), encode(photo)), signer._sign, []

    def fails_once(*asked: Any) -> bytes:
        if not failed:
            failed.append(asked)
            raise c2pa.C2paError("the network was away")
        return whole(*asked)

    monkeypatch.setattr(signer, "_sign", fails_once)
    with pytest.raises(RayfaceError, match="the network was away"):
        signer.sign(encode(photo), "png", report("beautify"), came)


def test_a_made_certificate_is_never_written_over(tmp_path: Path) -> None:
    written = write_certificate(str(tmp_path / "new"))
    assert stat.S_IMODE(os.stat(tmp_path / "new" / KEY_FILE).st_mode) == 0o600
    assert [Path(path).name for path in written] == [CHAIN_FILE, KEY_FILE, ROOT_FILE]
    with pytest.raises(RayfaceError, match="new folder"):
        write_certificate(str(tmp_path / "new"))


def write_self_signed(folder: Path) -> tuple[str, str]:
    """What `openssl req -x509` makes: paths of the certificate and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "me")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=9))
    paths = folder / "self.pem", folder / "self.key"
    pem = serialization.Encoding.PEM
    paths[0].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(pem))
    plain = serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return str(paths[0]), str(paths[1])


class _In:
    """`datetime` some days on."""

    def __init__(self, days: int) -> None:
        self.days = days

    def now(self, zone: Any = UTC) -> datetime:
        return datetime.now(zone) + timedelta(days=self.days)
