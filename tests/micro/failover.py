"""The scenarios of the failover tests on tiny guests: how they ask, and how long things may take; see `takeover`.

Emulated guests on a busy host stand still for seconds now and then, so whether anybody is let down is asked with
patience; how long an outage lasts is timed by bare connections, which are cheap, and give up before their second try.
"""

from __future__ import annotations

from takeover import Takeover

from labctl.checks import SamplerLimits
from labctl.faults import Fault, Loss, PowerOff
from labctl.probes.probe import Kind, Probe

# From so much on the verdict is INCONCLUSIVE. Intervals are reckoned from when requests were really made, so that a
# late one widens what is reported, and hides nothing; with a load of 15 on two cores half of them were.
LIMITS = SamplerLimits(rate_share=0.8, gap_s=4.0, late_share=0.6)
CLIENTS = 20


def clients(lab, first: int, count: int) -> tuple[str, ...]:
    """Source addresses of the client guest."""
    return tuple(str(a) for a in lab.spec.node("client").nics[0].extra_addresses[first : first + count])


def web(lab, *, count=CLIENTS, rate_hz=8.0) -> Probe:
    """HTTP to the virtual address: who serves whom, and whether anybody is let down."""
    cluster = lab.spec.clusters[0]
    return Probe(
        name="web",
        kind=Kind.HTTP,
        address=str(cluster.address.ip),
        port=80,
        host=cluster.fqdn,
        sources=clients(lab, 0, count),
        rate_hz=rate_hz,
        timeout_s=6.0,
        late_s=1.0,
    )


def connect(lab) -> Probe:
    """Bare connections to the same port from the same clients, often: each speaks of one moment."""
    return Probe(
        name="connect",
        kind=Kind.TCP,
        address=str(lab.spec.clusters[0].address.ip),
        port=80,
        sources=clients(lab, 0, CLIENTS),
        rate_hz=10.0,
        timeout_s=0.9,
        late_s=0.5,
    )


def kept(lab) -> Probe:
    """HTTP on connections that last, from other clients, seldom: what matters is that they last."""
    cluster = lab.spec.clusters[0]
    return Probe(
        name="kept",
        kind=Kind.KEPT,
        address=str(cluster.address.ip),
        port=80,
        host=cluster.fqdn,
        sources=clients(lab, 100, 16),
        rate_hz=4.0,
        timeout_s=4.0,
        late_s=1.0,
    )


def takeover(fault: Fault, lab) -> Takeover:
    """What the clients see of a fault; a member that has to boot takes longer to come back."""
    within_s = 60.0 if isinstance(fault, PowerOff) else 30.0
    cluster, alone = lab.spec.clusters[0], isinstance(fault, Loss)
    return Takeover(fault, cluster, web(lab), connect(lab), kept(lab), LIMITS, within_s, alone)
