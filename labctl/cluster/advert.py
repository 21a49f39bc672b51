"""What a member's heartbeat says beside that it is there: a VRRP advert whose addresses the packet filter overwrites.

VRRPv3 (RFC 9568) has 8 bytes of header, then the addresses of the virtual router. Ours mean nothing, so that there is
room for what the members have to know of each other; nobody in user space is asked. Byte offsets into the message:

     1     the virtual router: the sender's host ID
     2     priority; 0 when keepalived ends, else one bit per health check, from the right: 1 as long as it is good
     8-11  digest of the sender's rules
    12-15  one bit per host ID, from the left: members that have just come back
    16     the sender as a whole: serves, stopped or draining
    17-48  one byte per port rule, in their order: serves, disabled or draining

The checksum is not mended, as nothing reads it: each router has one member, and keepalived ignores the others'.
"""

from __future__ import annotations

import re
from enum import IntEnum

from labctl.topology.check_port_rules import MOST_RULES
from labctl.topology.spec import ClusterSpec, LabSpec, PortRule, RuleProtocol, digest_of

__all__ = [
    "ADDRESSES",
    "DIGEST_AT",
    "PRIORITY",
    "PRIORITY_AT",
    "RETURNED_AT",
    "RULES_AT",
    "STATE_AT",
    "WHOLE",
    "Says",
    "health_bits",
    "key_of",
    "rule_name",
    "rules_digest",
]

PRIORITY_AT, DIGEST_AT, RETURNED_AT, STATE_AT, RULES_AT = 2, 8, 12, 16, 17
ADDRESSES = (RULES_AT + MOST_RULES + 3 - DIGEST_AT) // 4  # as many as the bytes above take

PRIORITY = 128  # of a heartbeat whose checks are all bad
WHOLE = 0  # the key of a member as a whole, among those of its rules

_PROTOCOLS = {RuleProtocol.TCP: 6, RuleProtocol.UDP: 17, RuleProtocol.BOTH: 255}


class Says(IntEnum):
    """What a member says of itself, or of one of its rules."""

    SERVES = 0
    DISABLED = 1
    DRAINING = 2


def key_of(rule: PortRule) -> int:
    """Names a rule in the sets of the packet filter, whatever other rules there are.

    One about a single virtual address has 31 bits of a digest, below a bit that the others never have.
    """
    if rule.address:
        return 1 << 31 | int(digest_of(rule.address, rule.protocol, rule.first_port)[:8], 16) >> 1
    return _PROTOCOLS[rule.protocol] << 16 | rule.first_port


def rule_name(rule: PortRule) -> str:
    """Names a rule's chain and its set: `443_tcp`, `80_tcp_10_77_0_25`."""
    where = re.sub(r"[.:]", "_", f"_{rule.address}") if rule.address else ""
    return f"{rule.first_port}_{rule.protocol}{where}"


def health_bits(cluster: ClusterSpec) -> dict[PortRule, int]:
    """What each good health check adds to a heartbeat's priority, by rule."""
    checked = [rule for rule in cluster.port_rules if rule.health]
    return {rule: 1 << number for number, rule in enumerate(checked)}


def rules_digest(lab: LabSpec, cluster: ClusterSpec) -> int:
    """32 bits that name all that the members must agree on: who they are, and the rules."""
    members = [(m.priority, m.node, lab.node(m.node).nic(m.nic).address) for m in cluster.members]
    more = [cluster.more_addresses] if cluster.more_addresses else []
    agreed = digest_of(cluster.address, cluster.mode, cluster.heartbeat, members, cluster.port_rules, *more)
    return int(agreed[:8], 16)
