"""NLB's controls: start, stop, drain, suspend, resume a member, and enable, disable, drain one of its port rules.

Each is one transaction on the sets of the member's packet filter, which tells the others with its next heartbeat. No
process is started or stopped; a member that boots anew serves.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address

from labctl.clock import Deadline, wait_until
from labctl.cluster.advert import WHOLE, key_of
from labctl.cluster.knowledge import Told, Word
from labctl.cluster.membership import ClusterView, MemberView, look
from labctl.cluster.ownership import rule_for
from labctl.cluster.render import table_of
from labctl.errors import DeadlineExceeded, InputError, LabError
from labctl.guest.agent import Guest
from labctl.parallel import for_all
from labctl.topology.spec import ClusterSpec, Filtering, MemberSpec, PortRule, RuleProtocol, bracketed

__all__ = [
    "Connections",
    "Control",
    "Order",
    "check_rules_agree",
    "connections",
    "drainstop",
    "give",
    "ignores",
    "orders",
    "rules_named",
    "wait_drained",
]

FRESH_FOR = "5m"  # how long others' connections are spared by a member that came back; as in the packet filter


class Control(StrEnum):
    """What a member can be told; the last three are about port rules."""

    START = "start"
    STOP = "stop"
    DRAIN_ALL = "drainstop"
    SUSPEND = "suspend"
    RESUME = "resume"
    ENABLE = "enable"
    DISABLE = "disable"
    DRAIN = "drain"


_WORDS = {
    Control.STOP: Word.STOPPED,
    Control.RESUME: Word.STOPPED,  # NLB, too, wants a start after it
    Control.SUSPEND: Word.SUSPENDED,
    Control.DRAIN_ALL: Word.DRAINING,
    Control.DISABLE: Word.DISABLED,
    Control.DRAIN: Word.DRAINING,
}


def orders(
    cluster: ClusterSpec, member: MemberSpec, control: Control, *, now_s: float, rules: Sequence[PortRule] = ()
) -> str:
    """The transaction that carries a control out on a member, for `nft --file`.

    Args:
        now_s: seconds since the epoch, for those who ask later.
        rules: which ones to enable, disable or drain.
    """
    table = table_of(cluster)
    keys = [key_of(r) for r in rules] if control in {Control.ENABLE, Control.DISABLE, Control.DRAIN} else [WHOLE]
    lines = [line for key in keys for line in _cleared(table, key)]
    word = _WORDS.get(control)
    if word:
        place = "draining" if word is Word.DRAINING else "disabled"
        lines += [f'add element {table} {place} {{ {key:#x} comment "{Told(word, now_s)}" }}' for key in keys]
    if control is Control.ENABLE:
        lines.append(f"add element {table} fresh {{ {member.priority} timeout {FRESH_FOR} }}")
    return "\n".join(lines) + "\n"


def _cleared(table: str, key: int) -> list[str]:
    """Deleting what isn't there fails, so it is added first; it is one transaction, and nobody sees that."""
    return [
        f"{verb} element {table} {place} {{ {key:#x} }}"
        for place in ("disabled", "draining")
        for verb in ("add", "delete")
    ]


def ignores(member: MemberView, control: Control) -> str:
    """Why a member does not do what it is told; empty when it does."""
    if member.knows is None:
        return member.why
    told = member.knows.whole
    suspended = told is not None and told.word is Word.SUSPENDED
    if suspended and control not in {Control.RESUME, Control.SUSPEND}:
        return "it is suspended, and ignores all but resume"
    if control is Control.RESUME and not suspended:
        return "it is not suspended"
    if told and told.word is Word.REFUSED and control is Control.START:
        return f"it was refused: {told.why}; labctl up tries again"
    stopped = told is not None and told.word in {Word.STOPPED, Word.REFUSED}
    if stopped and control is Control.DRAIN_ALL:
        return "it is stopped already"
    return ""


def check_rules_agree(view: ClusterView) -> None:
    """Members with different rules would both take a client, or neither.

    Raises:
        LabError: naming the members and the digests of their rules.
    """
    digests = view.digests
    if not view.same_rules:
        have = ", ".join(f"{node} has {digest:08x}" for node, digest in digests.items())
        raise LabError(
            f"cluster {view.cluster.name}: the members' rules differ: {have}; expected the same digest on all",
            hint="labctl up gives all of them the topology's",
        )


def rules_named(cluster: ClusterSpec, text: str) -> tuple[PortRule, ...]:
    """The rules that `443`, `443/tcp`, `1000-1999/both`, `10.77.0.25:80` or `all` means; disabled ones have nothing to
    control.

    Raises:
        InputError: no rule of the cluster is meant.
    """
    found = tuple(r for r in cluster.port_rules if r.filtering is not Filtering.DISABLED and _means(text, r))
    if not found:
        known = ", ".join(r.title for r in cluster.port_rules if r.filtering is not Filtering.DISABLED) or "none"
        raise InputError(f"cluster {cluster.name} has no port rule {text}", hint=f"all, or one of: {known}")
    return found


def _means(text: str, rule: PortRule) -> bool:
    address, _, rest = text.rpartition(":")
    ports, _, protocol = rest.partition("/")
    if (protocol and protocol != rule.protocol) or (
        address and not (rule.address and address == bracketed(rule.address))
    ):
        return False
    if re.fullmatch(r"\d{1,5}", ports):
        return rule.first_port <= int(ports) <= rule.last_port
    return text == "all" or ports == rule.ports


# -- connections -------------------------------------------------------------------------------------------------------

# Those that somebody still waits for: not what merely lingers (time-wait) or listens.
_OPEN = ("established", "syn-recv", "fin-wait-1", "fin-wait-2", "close-wait", "last-ack", "closing")


@dataclass(frozen=True, slots=True)
class Connections:
    """The open TCP connections of a member to the virtual address.

    Attributes:
        by_rule: by the title of the port rule; `default host` for ports that no rule covers.
    """

    by_rule: Mapping[str, int]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.by_rule.values())

    def of(self, rules: Sequence[PortRule]) -> int:
        """Those of some rules."""
        return sum(self.by_rule.get(r.title, 0) for r in rules)


def connections(guest: Guest, cluster: ClusterSpec) -> Connections:
    """Count a member's open connections, by what its kernel has.

    Raises:
        LabError: it can't be asked.
    """
    states = [word for state in _OPEN for word in ("state", state)]
    listed = guest.succeed(["/usr/bin/ss", "-H", "-t", "-n", *states, *_from(cluster)], within_s=20.0)
    found: dict[str, int] = {}
    for local, port in re.findall(r"(\S+):(\d+)\s+\S+:\d+", listed):
        address = ip_address(local.strip("[]"))
        if address in cluster.addresses:
            rule = rule_for(cluster, int(port), RuleProtocol.TCP, address)
            title = rule.title if rule else "default host"
            found[title] = found.get(title, 0) + 1
    return Connections(found)


def _from(cluster: ClusterSpec) -> list[str]:
    """What ss takes for the connections whose own end is a virtual address."""
    first, *more = (["src", bracketed(address)] for address in cluster.addresses)
    return ["(", *first, *(word for one in more for word in ("or", *one)), ")"] if more else first


def wait_drained(
    ask: Callable[[], Connections], what: str, deadline: Deadline, tell: Callable[[str], None] = lambda _said: None
) -> None:
    """Wait until a member's connections have ended.

    Raises:
        DeadlineExceeded: how many are left.
    """
    left = 0

    def probe() -> tuple[bool | None, str]:
        nonlocal left
        left = ask().total
        return (None if left else True), f"{left} open connections"

    try:
        wait_until(f"{what}: its connections end", probe, deadline, every_s=0.5, tell=tell)
    except DeadlineExceeded as late:
        noun = "connection" if left == 1 else "connections"
        raise DeadlineExceeded(
            f"{what}: {left} {noun} left; it goes on draining",
            hint=f"labctl cluster stop {what} ends them, labctl cluster start {what} takes it back",
        ) from late


# -- telling -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Order:
    """What members of a cluster are told.

    Attributes:
        nodes: which members.
        rules: which port rules, of `Control.ENABLE`, `DISABLE` and `DRAIN`.
    """

    control: Control
    nodes: tuple[str, ...]
    rules: tuple[PortRule, ...] = ()


def give(cluster: ClusterSpec, guests: Mapping[str, Callable[[], Guest]], order: Order) -> dict[str, str]:
    """Tell members what to do; returns the nodes that ignore it, and why.

    Raises:
        LabError: they were to start, and their rules differ.
        LabError, ExceptionGroup: a member could not be told.
    """
    view = look(cluster, guests)
    if order.control is Control.START:
        check_rules_agree(view)
    ignored = {node: why for node in order.nodes if (why := ignores(view.member(node), order.control))}
    members = {m.node: m for m in cluster.members}

    def tell(node: str) -> None:
        script = orders(cluster, members[node], order.control, now_s=time.time(), rules=order.rules)
        guests[node]().succeed(["/usr/sbin/nft", "--file", "-"], stdin=script.encode(), within_s=20.0)

    for_all(tell, [node for node in order.nodes if node not in ignored])
    return ignored


def drainstop(
    cluster: ClusterSpec,
    guests: Mapping[str, Callable[[], Guest]],
    nodes: tuple[str, ...],
    deadline: Deadline,
    tell: Callable[[str], None] = lambda _said: None,
) -> dict[str, str]:
    """Drain members, wait until their connections have ended, and stop them; returns who ignores it, and why.

    Raises:
        DeadlineExceeded, ExceptionGroup: how many connections are left on a member, which goes on draining.
    """
    ignored = give(cluster, guests, Order(Control.DRAIN_ALL, nodes))

    def drained(node: str) -> None:
        wait_drained(lambda: connections(guests[node](), cluster), node, deadline, tell)
        give(cluster, guests, Order(Control.STOP, (node,)))

    for_all(drained, [node for node in nodes if node not in ignored])
    return ignored
