"""Content credentials (C2PA): what was done to a picture stands in it, signed, and anyone can check it.

Every result carries a manifest: the photo it was made of as its parent (that photo's own credentials stay inside), what
each step did and by which model, and IPTC's digital source type, which also stands in the picture's XMP for readers
that know nothing of C2PA. Nothing of the original's pixels goes along: no thumbnails.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from rayface import __version__
from rayface.certificates import CHAIN_FILE, KEY_FILE, new_certificate, read_pem, runs_out, signs_with
from rayface.errors import RayfaceError
from rayface.storage import absolute

if TYPE_CHECKING:
    import c2pa

# IPTC NewsCodes, Digital Source Type: "edited with generative AI". Of every step: networks draw pixels that nobody saw.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
MEDIA_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
PARENT = {"title": "the photo as it came", "relationship": "parentOf", "label": "parent"}
# For a look whether a certificate can sign: a picture of one pixel, to which nothing was done.
DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c636000000002000148afa471"
    "0000000049454e44ae426082"
)
NOTHING_DONE: Mapping[str, Any] = {
    "faces": [], "steps": [], "models": {}, "width": 1, "height": 1, "input_width": 1, "input_height": 1
}  # fmt: skip
# No picture may make this program fetch something: neither manifests that lie elsewhere nor revocation lists.
OFFLINE = {"remote_manifest_fetch": False, "ocsp_fetch": False}


@dataclass(frozen=True)
class CredentialSettings:
    """Who signs. Paths of PEM files; without them a certificate is made for this process, which nobody trusts."""

    certificate: str = ""  # the signer's certificate, then those that lead to a root
    key: str = ""  # its private key, unencrypted: a mounted secret
    timestamps: str = ""  # address of a time-stamp authority (RFC 3161), asked for each picture; "": none
    # The photo's own credentials stay inside, with all that they hold: a thumbnail, an author, a place
    keep_incoming: bool = True

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            given, other = ("certificate", "key") if self.certificate else ("key", "certificate")
            raise RayfaceError(f"credentials.{given} is given without credentials.{other}; give both PEM files.")

    def absolute(self) -> "CredentialSettings":
        """The same, with paths as they are for processes that run in other folders."""
        if not self.certificate:
            return self
        return replace(self, certificate=absolute(self.certificate), key=absolute(self.key))


class Signer:
    """Signs results. Raises RayfaceError for files that are no certificate and its key."""

    def __init__(self, settings: CredentialSettings = CredentialSettings()) -> None:
        if settings.certificate:
            self._chain, self._key = read_pem(settings.certificate), read_pem(settings.key)
        else:
            made = new_certificate()
            self._chain, self._key = made[CHAIN_FILE], made[KEY_FILE]
        self._timestamps, self.keep_incoming = settings.timestamps, settings.keep_incoming
        self.name, self._algorithm = signs_with(self._chain, self._key, settings.certificate)
        self.runs_out = runs_out(self._chain)
        if settings.certificate and not self._signs(DOT, "png", NOTHING_DONE, []):
            raise RayfaceError(
                f"credentials: {settings.certificate} cannot sign content credentials; C2PA wants a certificate under "
                "an authority (not signed by itself) with the key usage digitalSignature and the extended key usage "
                "emailProtection or documentSigning. `rayface credentials make DIR` makes one for development."
            )

    def sign(self, picture: bytes, format: str, report: Mapping[str, Any], original: bytes) -> bytes:
        """`picture`, a file in `format` ("jpeg", "png" or "webp"), with credentials.

        `report`: of what was done, `dataclasses.asdict` of a `work.Report`; `original`: the file it was made of, as it
        came. Raises RayfaceError (503) where it cannot be signed: none goes out without.
        """
        import c2pa

        parents = [original] if self.keep_incoming and _media_type(original) in _kinds() else []
        try:
            try:
                return self._sign(picture, format, report, parents, self._timestamps)
            except c2pa.C2paError:
                if not parents or self._signs(picture, format, report, parents):
                    raise  # not the parent's fault
                # its credentials are beyond reading
                return self._sign(picture, format, report, [], self._timestamps)
        except c2pa.C2paError as error:
            raise RayfaceError(
                f"The result could not be given its content credentials ({error}); see the settings of credentials.",
                status=503,
                kind="not-signed",
            ) from error

    def _signs(self, picture: bytes, format: str, report: Mapping[str, Any], parents: Sequence[bytes]) -> bool:
        """Whether it does so without a time stamp."""
        import c2pa

        try:
            return bool(self._sign(picture, format, report, parents, ""))
        except c2pa.C2paError:
            return False

    def _sign(
        self, picture: bytes, format: str, report: Mapping[str, Any], parents: Sequence[bytes], timestamps: str
    ) -> bytes:
        import c2pa

        information = c2pa.C2paSignerInfo(self._algorithm.encode(), self._chain, self._key, timestamps.encode() or None)
        signed, media_type = io.BytesIO(), MEDIA_TYPES[format]
        with c2pa.Signer.from_info(information) as signer, c2pa.Builder(_manifest(report, parents), _context()) as made:
            for parent in parents:
                made.add_ingredient(PARENT, _media_type(parent), io.BytesIO(parent))
            made.sign(signer, media_type, io.BytesIO(picture), signed)
        return signed.getvalue()


def applied_steps(report: Mapping[str, Any]) -> list[str]:
    """Those of the steps of a report (`Signer.sign`) that changed the photo, in their order."""
    from rayface.pipeline import photo_steps

    at_faces = {step for face in report["faces"] if face["kept"] > 0 for step in face["steps"]}
    enlarged = (report["width"], report["height"]) != (report["input_width"], report["input_height"])
    return [step for step in report["steps"] if (enlarged if step in photo_steps() else step in at_faces)]


def xmp(report: Mapping[str, Any]) -> bytes:
    """An XMP packet that says the digital source type; empty where no step changed anything."""
    if not applied_steps(report):
        return b""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}" xmp:CreatorTool="rayface {__version__}"/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def read_credentials(picture: bytes, roots: str = "") -> dict[str, Any]:
    """What the content credentials of a JPEG, PNG or WebP file say, and whether they hold.

    `state`: "none"; "valid" (nothing was changed since it was signed, by somebody unknown), "trusted" (and the signer's
    certificate leads to one of `roots`, PEM) or "invalid"; `failures`: codes of the C2PA specification. Of the rest
    only what is there: `signer`, `issuer`, `actions` (each with `action`, `description`, `digitalSourceType`, ...) and
    `parents`, the pictures it was made of, each with `format`, `signed` and `failures`.
    Raises RayfaceError for a file of another kind.
    """
    import c2pa

    media_type = _media_type(picture)
    if media_type not in MEDIA_TYPES.values():
        raise RayfaceError(
            "Content credentials are read from JPEG, PNG and WebP files; this is none.", status=415, kind="not-an-image"
        )
    trust: dict[str, Any] = {"trust": {"trust_anchors": roots}} if roots else {}
    context = c2pa.Context.from_dict({"verify": {**OFFLINE, "verify_trust": True}, **trust})
    try:
        with c2pa.Reader(media_type, io.BytesIO(picture), context=context) as reader:
            told, state = json.loads(reader.json()), str(reader.get_validation_state()).lower()
    except c2pa.C2paError.ManifestNotFound:
        return {"state": "none", "failures": []}
    except c2pa.C2paError as error:  # the manifest itself is broken
        return {"state": "invalid", "failures": [str(error)]}
    return {"state": state, "failures": _failures(told.get("validation_results")), **_told(told)}


def _manifest(report: Mapping[str, Any], parents: Sequence[bytes]) -> dict[str, Any]:
    """What is signed. Without `parents`, files whose own credentials go along, the original is named alone."""
    return {
        "claim_generator_info": [{"name": "rayface", "version": __version__}],
        "title": "photo changed by rayface" if applied_steps(report) else "photo",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": _actions(report)}}],
        "ingredients": [] if parents else [{**PARENT, "format": "application/octet-stream"}],
    }


def _actions(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    actions: list[dict[str, Any]] = [{"action": "c2pa.opened", "parameters": {"ingredientIds": [PARENT["label"]]}}]
    for step in applied_steps(report):
        actions.append(
            {
                "action": "c2pa.edited",
                "description": f"{step} by rayface",
                "digitalSourceType": SOURCE_TYPE,
                "softwareAgent": {"name": "rayface", "version": __version__},
                "parameters": {"rayface.step": step, "rayface.model": report["models"].get(step, "")},
            }
        )
    return [*actions, {"action": "c2pa.transcoded"}]


@cache
def _context() -> "c2pa.Context":
    import c2pa

    return c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}, "verify": OFFLINE})


@cache
def _kinds() -> Sequence[str]:
    import c2pa

    return tuple(c2pa.Reader.get_supported_mime_types())


def _media_type(picture: bytes) -> str:
    """By its first bytes; of those that `imaging.codec.FORMATS` names."""
    if picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
        return "image/webp"
    starts = {b"\xff\xd8": "jpeg", b"\x89PNG": "png", b"II*\0": "tiff", b"MM\0*": "tiff", b"BM": "bmp"}
    return next((f"image/{kind}" for start, kind in starts.items() if picture.startswith(start)), "")


def _told(told: Mapping[str, Any]) -> dict[str, Any]:
    """The active manifest in short."""
    manifest = told["manifests"][told["active_manifest"]]
    signature = manifest.get("signature_info", {})
    actions = [
        {key: value for key, value in action.items() if key != "changes"}
        for assertion in manifest.get("assertions", ())
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"]["actions"]
    ]
    parents = [
        {
            "title": parent.get("title", ""),
            "format": parent.get("format", ""),
            "signed": "active_manifest" in parent,
            "failures": _failures(parent.get("validation_results")),
        }
        for parent in manifest.get("ingredients", ())
    ]
    known = {"signer": signature.get("common_name"), "issuer": signature.get("issuer")}
    return {**{key: value for key, value in known.items() if value}, "actions": actions, "parents": parents}


def _failures(results: Mapping[str, Any] | None) -> list[str]:
    """Codes, but not that a signer is unknown: `state` says that."""
    failed = ((results or {}).get("activeManifest") or {}).get("failure", ())
    return [failure["code"] for failure in failed if failure["code"] != "signingCredential.untrusted"]
