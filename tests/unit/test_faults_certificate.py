"""A certificate that is over: made for the node's key and names, shown, seen on the port, and put right again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID
from lab_bench import Bench, pair
from scripted_guest import ManualClock, Said
from test_faults import Kept

from labctl.authority import Authority, make_authority
from labctl.errors import InputError
from labctl.faults import CertificateExpired, Ground, active, injected
from labctl.faults.certificate_ways import expired
from labctl.secrets import Secrets
from labctl.vault import save_secrets

TLS = "/etc/labctl/tls"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return make_authority("micro.test")


@pytest.fixture(scope="module")
def good(authority: Authority) -> str:
    """The certificate of a node, as the authority issues it."""
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "web.micro.test")]))
        .issuer_name(issuer.subject)
        .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("web.micro.test")]), critical=False)
    )
    key = load_pem_private_key(authority.key.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def test_it_is_the_same_certificate_but_for_its_dates_and_number(authority: Authority, good: str) -> None:
    now = datetime.now(UTC)
    over = x509.load_pem_x509_certificate(expired(good, authority.certificate, authority.key, now).encode())
    like = x509.load_pem_x509_certificate(good.encode())
    over.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate.encode()))
    assert over.not_valid_before_utc < over.not_valid_after_utc < now - timedelta(hours=23)
    assert (over.subject, over.public_key()) == (like.subject, like.public_key())
    assert [e.value for e in over.extensions] == [e.value for e in like.extensions]
    assert over.serial_number != like.serial_number


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.parent()
    return bench


@pytest.fixture
def ground(bench: Bench, authority: Authority, good: str) -> Ground:
    """Two members and a client; m1 has a certificate, and shows whatever chain.pem holds when it is told to."""
    lab = bench.lab(pair())
    lab.up(boot=True, keep=False)
    names = {"ca_key": authority.key, "ca_certificate": authority.certificate}
    save_secrets(bench.hypervisor, lab.name, Secrets({"certificate-authority": names}))
    guest = bench.guests["m1"]
    guest.files |= {f"{TLS}/server.pem": good.encode(), f"{TLS}/chain.pem": good.encode()}
    shown = {"chain": good.encode()}

    def sh(argv: list[str], _stdin: bytes) -> Said:
        script = argv[2]
        if "s_client" in script:
            return Said(0, shown["chain"])
        if "reload.d" in script:
            shown["chain"] = guest.files[f"{TLS}/chain.pem"]
        elif "cat server.pem" in script:
            guest.files[f"{TLS}/chain.pem"] = guest.files[f"{TLS}/server.pem"]
        elif "test -s" in script:
            return Said(0 if f"{TLS}/server.pem" in guest.files else 1)
        return Said()

    guest.on("/bin/sh", "-c", does=sh)
    lab.clock = ManualClock()
    return lab.ground()


def test_it_is_seen_on_the_port_and_the_right_one_is_back_afterwards(ground: Ground, bench: Bench, good: str) -> None:
    kept = Kept()
    with injected(CertificateExpired("m1"), ground, kept):
        assert [m.kind for m in active(ground)] == ["certificate-expired"]
        assert bench.guests["m1"].files[f"{TLS}/chain.pem"] != good.encode()
    assert kept.phases == ["injected", "confirmed", "healed", "heal_confirmed"]
    assert bench.guests["m1"].files[f"{TLS}/chain.pem"] == good.encode()


def test_a_service_that_keeps_the_old_one_is_not_taken_for_broken(ground: Ground, bench: Bench, good: str) -> None:
    bench.guests["m1"].on(
        "/bin/sh", "-c", does=lambda argv, _: Said(0, good.encode() if "s_client" in argv[2] else b"")
    )
    kept = Kept()
    with injected(CertificateExpired("m1"), ground, kept):
        pass
    assert kept.phases[:2] == ["injected", "unconfirmed"]


def test_a_node_without_a_certificate_can_have_none_that_is_over(ground: Ground, bench: Bench) -> None:
    del bench.guests["m1"].files[f"{TLS}/server.pem"]
    with (
        pytest.raises(InputError, match="m1: it has no certificate of the lab's authority"),
        injected(CertificateExpired("m1"), ground, Kept()),
    ):
        pytest.fail("the block was entered")
    assert active(ground) == ()
