"""What may come between a lab's nodes on the host's bridges."""

from __future__ import annotations

import json
import re
from typing import Any

from labctl.doctor.host import Finding, Host

__all__ = ["check_bridged_frames", "check_multicast", "check_tun"]

_CALLS = "/proc/sys/net/bridge/bridge-nf-call-"
_MEND_CALLS = " ".join(f"net.bridge.bridge-nf-call-{family}=0" for family in ("iptables", "ip6tables", "arptables"))


def check_tun(host: Host) -> Finding:
    """QEMU's NICs are taps."""
    there = host.owned("/dev/net/tun") is not None
    return Finding(
        "/dev/net/tun", there, "there" if there else "missing", "there", "" if there else "sudo modprobe tun"
    )


def check_bridged_frames(host: Host) -> Finding:
    """Frames between nodes stay on a bridge, and nothing on the host should drop them.

    The host's FORWARD rules are for routed packets; they see bridged ones only when br_netfilter hands them over
    (bridge-nf-call-*, kernel documentation networking/ip-sysctl). Rules of nftables' bridge family always see them.
    """
    name, expected = "bridged frames", "no packet filter sees them"
    dropping = _dropping_chains(host)
    if dropping is not None and (bridge := [where for family, where in dropping if family == "bridge"]):
        listed = f"sudo nft list chain bridge {bridge[0]}"
        return Finding(name, False, f"dropped by the policy of nftables chain bridge {bridge[0]}", expected, listed)
    calls = [family for family in ("iptables", "ip6tables", "arptables") if host.text(_CALLS + family) == "1"]
    if not calls:
        return Finding(name, True, expected, expected)
    handed, mend = f"handed to {', '.join(calls)}", f"sudo sysctl -w {_MEND_CALLS}"
    if dropping is None:
        return Finding(name, None, f"{handed}, whose rules only root can see", expected, mend)
    if dropping:
        where = ", ".join(f"{family} {chain}" for family, chain in dropping)
        return Finding(name, False, f"{handed}, and dropped by the policy of {where}", expected, mend)
    return Finding(name, None, f"{handed}; no policy drops them, single rules might", expected, mend)


def _dropping_chains(host: Host) -> list[tuple[str, str]] | None:
    """(family, table and chain) of what drops forwarded packets by policy; None when we may not know."""
    listed = host.output("nft", "-j", "list", "chains")
    legacy = host.output("iptables-legacy", "-S", "FORWARD") if host.has("iptables-legacy") else ""
    if listed is None or legacy is None:
        return None
    chains: list[dict[str, Any]] = [o["chain"] for o in json.loads(listed)["nftables"] if "chain" in o]
    found = [
        (c["family"], f"{c['table']} {c['name']}")
        for c in chains
        if c.get("hook") == "forward" and c.get("policy") == "drop"
    ]
    if re.search(r"^-P FORWARD (DROP|REJECT)", legacy, re.MULTILINE):
        found.append(("iptables-legacy", "filter FORWARD"))
    return found


def check_multicast(host: Host) -> Finding:
    """New bridges snoop multicast, and flood it as long as nobody queries; a querier cuts silent members off."""
    name, expected = "multicast on bridges", "no bridge both snoops and queries"
    asking = [
        bridge
        for bridge in host.names("/sys/class/net")
        if _bridge_option(host, bridge, "multicast_snooping") and _bridge_option(host, bridge, "multicast_querier")
    ]
    if asking:
        mend = "; ".join(f"sudo ip link set dev {bridge} type bridge mcast_querier 0" for bridge in asking)
        return Finding(name, None, f"{', '.join(asking)} snoops and queries", expected, mend)
    return Finding(name, True, expected, expected)


def _bridge_option(host: Host, bridge: str, option: str) -> bool:
    return host.text(f"/sys/class/net/{bridge}/bridge/{option}") == "1"
