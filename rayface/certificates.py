"""Certificates that content credentials are signed with (`credentials`): read, checked, and made for development."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rayface.errors import RayfaceError

DEVELOPMENT = "rayface development"  # the organisation in certificates that are made here
LEAF_DAYS, ROOT_DAYS = 365, 3650
CHAIN_FILE, KEY_FILE, ROOT_FILE = "chain.pem", "key.pem", "root.pem"


def new_certificate() -> dict[str, bytes]:
    """A root of its own and a signer's certificate under it, by file name: CHAIN_FILE, KEY_FILE and ROOT_FILE.

    PEM, on the curve P-256. For development: nobody else trusts that root, and its key is thrown away.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name, name = (_name(f"{DEVELOPMENT} {what}") for what in ("root", "signer"))
    root = _certificate(root_name, root_key, root_name, root_key, ROOT_DAYS, x509.BasicConstraints(True, 0))
    leaf = _certificate(name, key, root_name, root_key, LEAF_DAYS, x509.BasicConstraints(False, None))
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {
        CHAIN_FILE: leaf.public_bytes(pem) + root.public_bytes(pem),
        KEY_FILE: private,
        ROOT_FILE: root.public_bytes(pem),
    }


def write_certificate(folder: str) -> list[str]:
    """`new_certificate` as files in a new or empty folder, the key readable by its owner alone; gives their paths."""
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RayfaceError(f"{folder} cannot be made a folder ({error}); give a new one.") from error
    if held := sorted(path.name for path in target.iterdir()):
        raise RayfaceError(f"{folder} already holds {', '.join(held[:3])}; give a new folder, so that no key is lost.")
    for name, content in new_certificate().items():
        path = target / name
        path.touch(0o600 if name == KEY_FILE else 0o644)
        path.write_bytes(content)
    return [str(target / name) for name in (CHAIN_FILE, KEY_FILE, ROOT_FILE)]


def read_pem(path: str) -> bytes:
    """A PEM file. Raises RayfaceError where there is none."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise RayfaceError(f"credentials: {path} cannot be read ({error}); give a PEM file.") from error
    if b"-----BEGIN" not in content:
        raise RayfaceError(f"credentials: {path} is no PEM file; it must hold -----BEGIN ... lines.")
    return content


def signs_with(chain: bytes, key: bytes, path: str) -> tuple[str, str]:
    """Whose certificate the first of `chain` (PEM, of the file `path`) is, and C2PA's name of its key's algorithm.

    Raises RayfaceError where that is no certificate, has run out, or `key` (PEM) is not its own.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        certificate = x509.load_pem_x509_certificates(chain)[0]
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: the key is encrypted
        raise RayfaceError(f"credentials: {path} or its key cannot be used ({error}); give unencrypted PEM.") from error
    if certificate.public_key() != private.public_key():
        raise RayfaceError(f"credentials: the key is not that of the first certificate in {path}; give its own key.")
    if certificate.not_valid_after_utc < datetime.now(UTC):
        raise RayfaceError(f"credentials: {path} ran out on {certificate.not_valid_after_utc:%Y-%m-%d}; renew it.")
    named = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    name = str(named[0].value) if named else certificate.subject.rfc4514_string()
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return name, "ed25519"
    if isinstance(private, rsa.RSAPrivateKey):
        return name, "ps256"
    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in curves:
        return name, curves[private.curve.name]
    raise RayfaceError(f"credentials: {path} has a key that C2PA does not know; use P-256, P-384, Ed25519 or RSA.")


def runs_out(chain: bytes) -> datetime:
    """When the first certificate of `chain` (PEM) does."""
    from cryptography import x509

    return x509.load_pem_x509_certificates(chain)[0].not_valid_after_utc


def _name(text: str) -> Any:
    from cryptography import x509

    parts = ((x509.NameOID.ORGANIZATION_NAME, DEVELOPMENT), (x509.NameOID.COMMON_NAME, text))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])


def _certificate(name: Any, key: Any, issuer: Any, issuer_key: Any, days: int, constraints: Any) -> Any:
    """As the C2PA specification wants certificates: what the key may do is said, and a signer is no authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    now, authority = datetime.now(UTC), constraints.ca
    usage = x509.KeyUsage(not authority, False, False, False, False, authority, authority, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + timedelta(days=days))
        .add_extension(constraints, True)
        .add_extension(usage, True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    return builder.sign(issuer_key, hashes.SHA256())
