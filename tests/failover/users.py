"""What people do with a Client Access array, all of it through the virtual address: a probe for each protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from labctl.checks import SamplerLimits
from labctl.cluster.ownership import preference_for, rule_for
from labctl.lab import Lab
from labctl.probes import Expect, Kind, Probe
from labctl.secrets import Secrets
from labctl.topology.spec import ClusterSpec, RuleProtocol

# All of it runs in emulated guests, where a request of webmail is a second's work, and ten on a busy host. A user who
# asks as often as he can would measure the host; so each asks seldom, and waits long.
INTERVAL_S = 12.0
TIMEOUT_S = 23.0
LIMITS = SamplerLimits(rate_share=0.5, gap_s=60.0, late_share=0.5)
LARGE_MIB, SLOW_KIB_S = 64, 8.0  # lasts for more than two hours

OUTLOOK = "http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a"
ASKS = "http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006"
DISCOVER = (
    '<Autodiscover xmlns="{asks}"><Request><EMailAddress>{address}</EMailAddress>'
    "<AcceptableResponseSchema>{answers}</AcceptableResponseSchema></Request></Autodiscover>"
)


@dataclass(frozen=True)
class Users:
    """The lab's users at the client."""

    lab: Lab
    secrets: Secrets

    @property
    def cluster(self) -> ClusterSpec:
        """The Client Access array."""
        return self.lab.cluster("mail")

    @property
    def of_member(self) -> dict[str, str]:
        """By member, the address of a client whose HTTPS it answers."""
        rule = rule_for(self.cluster, 443, RuleProtocol.TCP)
        names = {m.priority: m.node for m in self.cluster.members}
        addresses = self.lab.spec.node("client").nics[0].extra_addresses
        return {names[preference_for(self.cluster, rule, a, 0)[0]]: str(a) for a in addresses}

    def address(self, user: str) -> str:
        """Somebody's mail address."""
        return f"{user}@{self.lab.spec.domain}"

    def probe(self, name: str, kind: Kind, port: int, user: str = "", **more: Any) -> Probe:
        """One user's probe, from a client of each member."""
        given: dict[str, Any] = {
            "address": str(self.cluster.address.ip),
            "host": self.cluster.fqdn,
            "sources": tuple(self.of_member.values()),
            "rate_hz": 1.0 / INTERVAL_S,
            "timeout_s": TIMEOUT_S,
            "late_s": 5.0,
            "user": user,
            "password": self.secrets.users.get(user.partition("@")[0], ""),
        }
        return Probe(name, kind, port=port, **{**given, **more})

    def groupware(self) -> tuple[Probe, ...]:
        """Webmail and phones: what takes a server longest when it is asked for the first time, so it is asked first."""
        return (
            self.probe("webmail", Kind.WEBMAIL, 443, "alice"),
            self.probe("phone", Kind.ACTIVESYNC, 443, "bob"),
        )

    def mail(self) -> tuple[Probe, ...]:
        """All else that goes through the virtual address."""
        alice = self.address("alice")
        discover = DISCOVER.format(asks=ASKS, address=alice, answers=OUTLOOK)
        asked = {"path": "/autodiscover/autodiscover.xml", "post": discover, "expect": Expect(body="<Type>IMAP</Type>")}
        return (
            self.probe("autodiscover", Kind.HTTPS, 443, **asked),
            self.probe("imap", Kind.IMAPS, 993, "bob"),
            self.probe("waiting", Kind.IDLE, 993, "carol"),
            self.probe("pop3", Kind.POP3S, 995, "bob"),
            self.probe("sieve", Kind.SIEVE, 4190, "bob"),
            self.probe("submission", Kind.SUBMIT, 587, alice, to=self.address("bob")),
        )

    def download(self, member: str) -> Probe:
        """One download that lasts for all of a test, from one member."""
        once = {"rate_hz": 0.001, "kib_s": SLOW_KIB_S, "sources": (self.of_member[member],)}
        return self.probe("download", Kind.DOWNLOAD_TLS, 443, path="/large", **once)
