"""How a node comes to show a certificate that is over: one is signed for its key and names with dates gone by.

On the host, with the key of the lab's authority, so no clock is touched and no node but this one takes part.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from labctl.errors import InputError
from labctl.faults.ground import Ground, OnNode, Seen
from labctl.faults.model import CertificateExpired
from labctl.vault import load_secrets

__all__ = ["CertificateExpiredWay", "expired"]

TLS = "/etc/labctl/tls"
ENDED = timedelta(days=1)  # before now, so that no clock of the lab takes it for good
LIVED = timedelta(days=1)

# $1: address, $2: port. What a client is shown, in PEM.
_SHOWN = """
openssl s_client -connect "$1:$2" </dev/null 2>/dev/null | openssl x509
"""
_TAKE_OVER = f"""
for service in {TLS}/reload.d/*; do
    if [ -x "$service" ]; then "$service" || exit; fi
done
"""
_PUT_BACK = (
    f"cd {TLS} && cat server.pem issuing.pem > chain.pem.new && chmod 0644 chain.pem.new && mv chain.pem.new chain.pem"
)


def expired(good: str, authority: str, key: str, now: datetime) -> str:
    """A certificate like the good one, and over.

    Args:
        good, authority: PEM of the certificate and of the authority that issued it.
        key: the authority's, PEM.
    """
    like, issuer = (x509.load_pem_x509_certificate(text.encode()) for text in (good, authority))
    signing_key = serialization.load_pem_private_key(key.encode(), None)
    assert isinstance(signing_key, ec.EllipticCurvePrivateKey)  # as `make_authority` makes it
    builder = (
        x509.CertificateBuilder()
        .subject_name(like.subject)
        .issuer_name(issuer.subject)
        .public_key(like.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - ENDED - LIVED)
        .not_valid_after(now - ENDED)
    )
    for extension in like.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(signing_key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


class CertificateExpiredWay(OnNode):
    def __init__(self, fault: CertificateExpired, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, before)
        self._port = fault.port

    def before(self) -> dict[str, str]:
        if self._sh(f"test -s {TLS}/server.pem")[0]:
            raise InputError(f"{self._node}: it has no certificate of the lab's authority")
        right, said = self.healed()
        if not right:
            raise InputError(f"{self._node}: its certificate is not what is seen beforehand: {said}")
        return {}

    def inject(self) -> None:
        authority = load_secrets(self._hypervisor, self._ground.lab.name).roles["certificate-authority"]
        issuing = authority["ca_certificate"]
        over = expired(self._own().decode(), issuing, authority["ca_key"], datetime.now(UTC))
        self._guest.write_file(f"{TLS}/chain.pem", (over + issuing).encode(), mode=0o644)
        self._do(_TAKE_OVER)

    def heal(self) -> None:
        self._await_agent()
        self._do(_PUT_BACK)
        self._do(_TAKE_OVER)

    def in_effect(self) -> Seen:
        shown, said = self._shown()
        return shown is not None and shown.not_valid_after_utc < datetime.now(UTC), said

    def healed(self) -> Seen:
        shown, said = self._shown()
        right = x509.load_pem_x509_certificate(self._own())
        return shown == right and right.not_valid_after_utc > datetime.now(UTC), said

    def _own(self) -> bytes:
        """The certificate that the node was given."""
        return self._guest.read_file(f"{TLS}/server.pem")

    def _shown(self) -> tuple[x509.Certificate | None, str]:
        """What the port shows to whoever connects."""
        done = self._guest.run(["/bin/sh", "-c", _SHOWN, "sh", str(self._spec.address), str(self._port)])
        if done.exit_code:
            return None, f"port {self._port} shows no certificate: {done.stderr.decode(errors='replace').strip()}"
        shown = x509.load_pem_x509_certificate(done.stdout)
        return shown, f"port {self._port} shows a certificate that ends {shown.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
