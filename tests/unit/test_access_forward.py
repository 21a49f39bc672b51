"""Ports forwarded to this host: what may be written, and what is said when one can't be had."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from lab_bench import Bench, lab_spec, node_spec
from scripted_guest import Said

from labctl.access.forward import LOOPBACK, Forward, parse_forwards, refuse_taken_ports, ssh_arguments, who_listens
from labctl.errors import GuestError, HostError, InputError
from labctl.lab import Lab


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("443", Forward(443, "", 443)),
        ("8443:443", Forward(8443, "", 443)),
        ("mail.contoso.test:443", Forward(443, "mail.contoso.test", 443)),
        ("10.77.0.20:443", Forward(443, "10.77.0.20", 443)),
        ("8443:mail.contoso.test:443", Forward(8443, "mail.contoso.test", 443)),
        ("8443:10.77.0.20:443", Forward(8443, "10.77.0.20", 443)),
        ("8443:3com:443", Forward(8443, "3com", 443)),
    ],
)
def test_a_port_is_written_as_for_ssh(written: str, means: Forward) -> None:
    assert parse_forwards([written]) == (means,)


@pytest.mark.parametrize(
    "written",
    ["", "x", "443:", ":443", "1:2:3", "1:a:2:3", "a b:1", "0", "65536", "0:443", "70000:443", "443/udp", "a;b:1"],
)
def test_what_is_no_port_is_named(written: str) -> None:
    with pytest.raises(InputError, match="^" + written.replace("/", ".")):
        parse_forwards([written])


def test_a_single_port_may_have_its_local_one_said_apart() -> None:
    assert parse_forwards(["443"], 8443) == (Forward(8443, "", 443),)
    with pytest.raises(InputError, match="--local 0: 0 is no port"):
        parse_forwards(["443"], 0)
    with pytest.raises(InputError, match="--local is for one port alone"):
        parse_forwards(["443", "993"], 8443)


@pytest.mark.parametrize(
    ("written", "hint"), [(["443", "client:443"], "8443:client:443"), (["8443:443", "8443:993"], "8444:993")]
)
def test_a_local_port_given_twice_is_refused_with_another_one(written: list[str], hint: str) -> None:
    with pytest.raises(InputError, match=r"local port \d+ is given twice") as refused:
        parse_forwards(written)
    assert refused.value.hint.endswith(hint)


@pytest.fixture
def taken() -> Iterator[int]:
    """A local port that somebody listens on."""
    with socket.socket() as listening:
        listening.bind((LOOPBACK, 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_a_local_port_that_is_taken_is_named_with_another_one(taken: int) -> None:
    with pytest.raises(HostError, match=f"local port {taken}: something else listens there") as refused:
        refuse_taken_ports(parse_forwards([f"{taken}:443"]))
    (again,) = parse_forwards([refused.value.hint.rpartition(" ")[2]])
    assert (again.local != taken, again.port) == (True, 443)


def test_a_local_port_that_is_free_stays_free() -> None:
    with socket.socket() as trial:
        trial.bind((LOOPBACK, 0))
        free = trial.getsockname()[1]
    for _ in range(2):
        refuse_taken_ports([Forward(free, "", 443)])


# -- who listens -------------------------------------------------------------------------------------------------------

TRY = ("/bin/sh", "-c", "timeout")
REFUSED = b"bash: connect: Connection refused\nbash: line 1: /dev/tcp/localhost/443: Connection refused\n"


@pytest.fixture
def lab() -> tuple[Bench, Lab]:
    bench = Bench()
    bench.parent()
    lab = bench.lab(lab_spec(node_spec("m1", 1)))
    lab.up(boot=True, keep=False)
    return bench, lab


def looked(lab: tuple[Bench, Lab], written: str) -> Forward:
    _bench, the_lab = lab
    return who_listens(the_lab.guest("m1"), the_lab.spec.node("m1"), parse_forwards([written])[0])


def tried(lab: tuple[Bench, Lab]) -> list[list[str]]:
    return [
        argv[4:] for argv in lab[0].guests["m1"].ran if argv[:2] == ["/bin/sh", "-c"] and argv[2].startswith("timeout")
    ]


def test_a_port_of_the_node_is_looked_for_on_its_loopback_first(lab: tuple[Bench, Lab]) -> None:
    assert looked(lab, "8443:443") == Forward(8443, "localhost", 443)
    assert tried(lab) == [["10", "localhost", "443"]]


def test_a_service_that_listens_on_the_nodes_address_alone_is_found(lab: tuple[Bench, Lab]) -> None:
    refused = Said(1, err=REFUSED)
    lab[0].guests["m1"].on(*TRY, does=lambda argv, _stdin: refused if argv[5] == "localhost" else Said())
    assert looked(lab, "443") == Forward(443, "10.9.0.1", 443)


def test_a_port_that_nobody_listens_on_is_named_with_the_way_to_see_who_does(lab: tuple[Bench, Lab]) -> None:
    lab[0].guests["m1"].says(*TRY, exit_code=1, err=REFUSED)
    with pytest.raises(GuestError, match=r"^m1: nobody listens on port 443: Connection refused$") as refused:
        looked(lab, "443")
    assert refused.value.hint == "labctl exec m1 -- ss -ltn"


def test_another_host_that_does_not_answer_is_named(lab: tuple[Bench, Lab]) -> None:
    lab[0].guests["m1"].says(*TRY, exit_code=124)
    with pytest.raises(GuestError, match=r"^m1: mail\.test does not answer on port 443: no answer within 10 s$"):
        looked(lab, "mail.test:443")
    assert tried(lab) == [["10", "mail.test", "443"]]


def test_ssh_is_told_to_have_all_ports_or_none_and_to_say_so() -> None:
    arguments = ssh_arguments("m1", [Forward(8443, "localhost", 443), Forward(993, "10.9.0.7", 993)])
    assert arguments[-4:] == ["-L", "127.0.0.1:8443:localhost:443", "-L", "127.0.0.1:993:10.9.0.7:993"]
    assert "ExitOnForwardFailure=yes" in arguments
    (said,) = [a for a in arguments if a.startswith("LocalCommand=")]
    assert "'127.0.0.1:8443 is localhost:443 of m1; Ctrl-C ends it'" in said
