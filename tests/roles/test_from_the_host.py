"""From the host, out of band: what a browser, a mail client and ssh there get to see, certificates checked."""

from __future__ import annotations

import http.client
import imaplib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.lab import Lab
from labctl.secrets import Secrets

pytestmark = [pytest.mark.lab(topology="exchange2007"), pytest.mark.timeout(1800)]

LABCTL = str(Path(sys.executable).with_name("labctl"))
TIMEOUT_S = 120


@pytest.fixture
def environment(lab: Lab) -> dict[str, str]:
    """What tells labctl which lab is meant."""
    return {**os.environ, "LABCTL_URI": lab.hypervisor.uri, "LABCTL_LAB": lab.name}


@pytest.fixture
def ports(lab: Lab, environment: dict[str, str]) -> Iterator[dict[int, int]]:
    """The virtual address as the client sees it: port there → port on this host's loopback."""
    free = {}
    for port in (443, 993):
        with socket.socket() as trial:
            trial.bind(("127.0.0.1", 0))
            free[port] = trial.getsockname()[1]
    host = lab.cluster("mail").fqdn
    argv = [LABCTL, "forward", "client", *(f"{local}:{host}:{port}" for port, local in free.items())]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        try:
            for port, local in free.items():
                assert process.stdout.readline() == f"127.0.0.1:{local} is {host}:{port} of client; Ctrl-C ends it\n"
            yield free
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


def secured(port: int, name: str, root: str) -> ssl.SSLSocket:
    """A connection whose certificate must be of that name and signed under the lab's root."""
    plain = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
    return ssl.create_default_context(cadata=root).wrap_socket(plain, server_hostname=name)


def test_a_browser_on_the_host_gets_webmail(lab: Lab, ports: dict[int, int], secrets: Secrets) -> None:
    name = lab.cluster("mail").fqdn
    connection = http.client.HTTPSConnection(name, timeout=TIMEOUT_S)
    connection.sock = secured(ports[443], name, secrets.root_certificates)
    connection.request("GET", "/SOGo/")
    answer = connection.getresponse()
    assert (answer.status, b"SOGo" in answer.read()) == (200, True)


def test_a_mail_client_on_the_host_logs_in(lab: Lab, ports: dict[int, int], secrets: Secrets) -> None:
    name = lab.cluster("mail").fqdn

    class Client(imaplib.IMAP4):
        def _create_socket(self, timeout: float | None) -> socket.socket:
            return secured(ports[993], name, secrets.root_certificates)

    with Client(name) as imap:
        assert imap.login("alice", secrets.users["alice"])[0] == "OK"


def test_the_hosts_own_trust_is_not_enough(lab: Lab, ports: dict[int, int]) -> None:
    plain = socket.create_connection(("127.0.0.1", ports[443]), TIMEOUT_S)
    with pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(plain, server_hostname=lab.cluster("mail").fqdn)


def test_ssh_reaches_a_guest_with_systemd(environment: dict[str, str]) -> None:
    argv = [LABCTL, "ssh", "dc", "hostname; cat /proc/1/comm"]
    said = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, env=environment, text=True, check=True)
    assert said.stdout == "dc\nsystemd\n"
