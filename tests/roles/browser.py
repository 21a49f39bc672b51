"""A browser at the client, as far as webmail needs one: requests that check certificates, and cookies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from labctl.guest.agent import Guest
from labctl.topology.spec import NodeSpec

LONGEST_S = 60


class Unanswered(Exception):
    """There was no answer, or one that says why not; as curl puts it."""


def curl(client: Guest, via: Sequence[str], url: str, *more: str, longest_s: int = LONGEST_S) -> str:
    """A request by a program that checks certificates; its body.

    Raises:
        Unanswered: none came within `longest_s`, or one with a status of 400 and more.
    """
    argv = ["curl", "--fail-with-body", "-sS", "--max-time", str(longest_s), *via, *more, url]
    done = client.run(argv, within_s=longest_s + 60)
    if done.exit_code:
        raise Unanswered(f"{done.stderr.decode().strip()} {done.text}".strip())
    return done.text


def straight_to(node: NodeSpec) -> list[str]:
    """curl's arguments for a request that goes to one server, whatever its name stands for."""
    return ["--connect-to", f"::{node.address}:"]


@dataclass(frozen=True)
class Browser:
    """One user's webmail, with a jar of cookies of its own."""

    client: Guest
    access: str
    name: str

    @property
    def jar(self) -> str:
        """The file of its cookies."""
        return f"/run/jar-{self.name}"

    def log_in(self, password: str, via: Sequence[str] = (), longest_s: int = LONGEST_S) -> str:
        """Begin a session; returns the member that did it."""
        asked = json.dumps({"userName": self.name, "password": password})
        sent = ["-H", "Content-Type: application/json", "--data", asked, "-c", self.jar, "-o", "/dev/null"]
        tell = ["-w", "%header{X-Labctl-Member}"]
        return curl(self.client, via, f"https://{self.access}/SOGo/connect", *sent, *tell, longest_s=longest_s)

    def inbox(self, via: Sequence[str] = ()) -> str | None:
        """What webmail says of the inbox; None when it shows its page to log in at, since it knows of no session."""
        body = self._shows("folderINBOX/view", via, "--data", "{}")
        return None if body.startswith("<!DOCTYPE html>") else body

    def mails(self, via: Sequence[str] = ()) -> dict[str, int]:
        """The number under which webmail shows each mail of the inbox, by subject."""
        names, *mails = json.loads(self._shows("folderINBOX/view", via, "--data", "{}"))["headers"]
        return {mail[names.index("Subject")]: mail[names.index("uid")] for mail in mails}

    def read(self, number: int, via: Sequence[str] = ()) -> str:
        """What webmail shows of one mail, headers and text."""
        return self._shows(f"folderINBOX/{number}/view", via)

    def _shows(self, what: str, via: Sequence[str], *more: str) -> str:
        token = self.client.shell(f"awk '$6 == \"XSRF-TOKEN\" {{print $7}}' {self.jar}")
        sent = ["-b", self.jar, "-H", f"X-XSRF-TOKEN: {token}", "-H", "Content-Type: application/json"]
        return curl(self.client, via, f"https://{self.access}/SOGo/so/{self.name}/Mail/0/{what}", *sent, *more).lstrip()
