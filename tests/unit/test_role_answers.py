"""What a Client Access server tells programs that ask it first: the rendered script, run here."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from lab_bench import lab_spec, node_spec

from labctl.roles.role import load_role, render_role, wanted_secrets
from labctl.secrets import Secrets

LAB = lab_spec(
    node_spec("dc", 1, roles=("certificate-authority", "certificate", "domain-controller")),
    node_spec("mbx", 2, roles=("groupware-store", "certificate", "mailbox", "hub-transport")),
    node_spec("cas", 3, roles=("certificate", "client-access")),
)


@pytest.fixture
def script(tmp_path: Path) -> dict[str, Any]:
    """The names that the script defines."""
    secrets = Secrets().completed(wanted_secrets(LAB), (), LAB.domain)
    files = render_role(load_role("client-access"), LAB, LAB.node("cas"), secrets).files
    (tmp_path / "answers.json").write_bytes(files["/etc/labctl/answers.json"][0])
    source = files["/usr/local/sbin/labctl-answers"][0].decode()
    names: dict[str, Any] = {"__name__": "answers"}
    exec(source.replace("/etc/labctl/answers.json", str(tmp_path / "answers.json")), names)
    return names


def request(address: str, schema: str) -> bytes:
    return (
        '<?xml version="1.0"?><Autodiscover xmlns="http://schemas.microsoft.com/exchange/autodiscover/outlook/'
        f'requestschema/2006"><Request><EMailAddress>{address}</EMailAddress><AcceptableResponseSchema>{schema}'
        "</AcceptableResponseSchema></Request></Autodiscover>"
    ).encode()


def test_a_request_is_read_and_what_is_none_asks_for_nothing(script: dict[str, Any]) -> None:
    assert script["asked"](request("ann@lab.test", script["PHONE"])) == ("ann@lab.test", script["PHONE"])
    for nonsense in (b"", b"<a", b"<Autodiscover/>"):
        assert script["asked"](nonsense) == ("", "")


def test_outlook_is_told_of_the_access_servers_for_reading_and_for_sending(script: dict[str, Any]) -> None:
    answer = ElementTree.fromstring(script["outlook"]("ann@lab.test"))
    schema = f"{{{script['OUTLOOK']}}}"
    protocols = [
        tuple(p.findtext(f"{schema}{field}") for field in ("Type", "Server", "Port", "LoginName", "SSL"))
        for p in answer.iter(f"{schema}Protocol")
    ]
    assert protocols == [
        ("IMAP", "mail.lab.test", "993", "ann@lab.test", "on"),
        ("POP3", "mail.lab.test", "995", "ann@lab.test", "on"),
        ("SMTP", "mail.lab.test", "587", "ann@lab.test", "on"),
    ]


def test_a_phone_is_told_of_activesync_and_markup_in_an_address_stays_text(script: dict[str, Any]) -> None:
    answer = ElementTree.fromstring(script["phone"]("a<b>&c@lab.test"))
    schema = f"{{{script['PHONE']}}}"
    assert answer.findtext(f".//{schema}Url") == "https://mail.lab.test/Microsoft-Server-ActiveSync"
    assert answer.findtext(f".//{schema}EMailAddress") == "a<b>&c@lab.test"


def test_a_refusal_and_the_autoconfiguration_are_xml(script: dict[str, Any]) -> None:
    assert ElementTree.fromstring(script["refusal"]()).findtext(f".//{{{script['OUTLOOK']}}}ErrorCode") == "500"
    autoconfig = ElementTree.fromstring(script["autoconfig"]())
    assert [e.text for e in autoconfig.iter("hostname")] == ["mail.lab.test", "mail.lab.test", "mail.lab.test"]


def test_a_back_end_answers_when_it_takes_connections(script: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()
        assert script["state"](place) == "answers"
    assert script["state"](place).startswith("does not answer: ")
