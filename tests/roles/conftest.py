"""What the tests of roles share: the lab's secrets, and users who sit at the client."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from labctl.guest.agent import Guest
from labctl.lab import Lab
from labctl.secrets import Secrets
from labctl.topology.spec import NodeSpec

PLACE, SCRIPTS = "/run/labctl-test", ("phone.py", "in_client.py")


class Refused(Exception):
    """What a program in the client would show its user; `kind` is Python's name for it."""

    def __init__(self, kind: str, says: str) -> None:
        super().__init__(f"{kind}: {says}")
        self.kind = kind


@dataclass(frozen=True)
class User:
    """Somebody at the client: `alice.does("send", host=…, to=[…], subject=…)`."""

    client: Guest
    name: str
    address: str
    password: str

    def does(self, verb: str, **arguments: Any) -> Any:
        """One verb of `in_client.py`, as this user unless the arguments say otherwise."""
        known: dict[str, Any] = {"password": self.password}
        known |= {"sender": self.address} if verb == "send" else {"user": self.name}
        asked = json.dumps({**known, **arguments}).encode()
        within_s = 120.0 + arguments.get("within_s", 0.0)
        said = self.client.succeed(["python3", f"{PLACE}/in_client.py", verb], stdin=asked, within_s=within_s)
        answer = json.loads(said)
        if "error" in answer:
            raise Refused(answer["kind"], answer["error"])
        return answer["result"]


@pytest.fixture
def user(lab: Lab, client: Guest, secrets: Secrets) -> Callable[[str], User]:
    """Makes a user of the lab at the client."""
    client.succeed(["mkdir", "-p", PLACE])
    for script in SCRIPTS:
        client.write_file(f"{PLACE}/{script}", (Path(__file__).parent / script).read_bytes())
    return lambda name: User(client, name, f"{name}@{lab.spec.domain}", secrets.users[name])


@pytest.fixture(params=["the virtual address", "one server"])
def one_server(request: pytest.FixtureRequest, lab: Lab) -> NodeSpec | None:
    """Whom users are led to: a Client Access server, whatever its name stands for, or whom the cluster chooses."""
    asked = request.param == "one server"
    return lab.spec.node(lab.cluster("mail").members[-1].node) if asked else None


@pytest.fixture
def at(one_server: NodeSpec | None) -> str:
    """That server's address; empty for the cluster's choice."""
    return str(one_server.address) if one_server else ""


@pytest.fixture
def hub(lab: Lab) -> str:
    """The name under which users submit mail."""
    found = lab.spec.provider("hub-transport")
    assert found is not None
    return found.fqdn


@pytest.fixture
def store(lab: Lab) -> str:
    """The name of the mailbox server."""
    found = lab.spec.provider("mailbox")
    assert found is not None
    return found.fqdn
