"""The lab's certificate authority, made on the host: a root, and an issuing authority that it signed.

The root's key signs the issuing certificate and nothing else, ever; no guest sees it. Only the issuing key and the
certificates go to the node that enrols the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "make_authority"]

ROOT_LIVES = timedelta(days=3650)
ISSUING_LIVES = timedelta(days=1825)
BACKDATED = timedelta(days=1)  # a guest whose clock is off by hours still takes them


@dataclass(frozen=True, slots=True)
class Authority:
    """Keys and certificates in PEM; the keys as cfssl reads them (SEC 1).

    Attributes:
        key, certificate: of the issuing authority.
    """

    root_key: str
    root_certificate: str
    key: str
    certificate: str


def make_authority(domain: str) -> Authority:
    """A fresh root and its issuing authority (RFC 5280: path lengths 1 and 0), both ECDSA with P-256."""
    root_key, issuing_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name = _name(domain, f"{domain} root")
    root = _certificate(root_name, root_key.public_key(), root_name, root_key, path_length=1, lives=ROOT_LIVES)
    name = _name(domain, f"{domain} issuing authority")
    issuing = _certificate(name, issuing_key.public_key(), root_name, root_key, path_length=0, lives=ISSUING_LIVES)
    return Authority(_pem(root_key), _text(root), _pem(issuing_key), _text(issuing))


def _name(domain: str, common_name: str) -> x509.Name:
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"labctl lab {domain}")
    return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _certificate(
    name: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: x509.Name,
    signing_key: ec.EllipticCurvePrivateKey,
    *,
    path_length: int,
    lives: timedelta,
) -> x509.Certificate:
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(signer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lives)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
        .sign(signing_key, hashes.SHA256())
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def _text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
