"""The failover scenario on tiny guests; see `takeover`."""

from __future__ import annotations

from takeover import Takeover

from labctl.checks import SamplerLimits
from labctl.faults import Fault, PowerOff
from labctl.probes.probe import Kind, Probe

# Three emulated guests on few cores: the client pauses now and then.
LIMITS = SamplerLimits(rate_share=0.9, gap_s=2.0, late_share=0.25)


def web(lab, *, clients=30, rate_hz=20.0) -> Probe:
    """HTTP to the virtual address from many source addresses, at a fixed rate."""
    cluster = lab.spec.clusters[0]
    sources = lab.spec.node("client").nics[0].extra_addresses[:clients]
    return Probe(
        name="web",
        kind=Kind.HTTP,
        address=str(cluster.address.ip),
        port=80,
        host=cluster.fqdn,
        sources=tuple(str(a) for a in sources),
        rate_hz=rate_hz,
        late_s=0.5,
    )


def kept(lab, *, clients=8, rate_hz=4.0) -> Probe:
    """The same on connections that last, from other addresses."""
    cluster = lab.spec.clusters[0]
    return Probe(
        name="kept",
        kind=Kind.KEPT,
        address=str(cluster.address.ip),
        port=80,
        host=cluster.fqdn,
        sources=tuple(str(a) for a in lab.spec.node("client").nics[0].extra_addresses[-clients:]),
        rate_hz=rate_hz,
        late_s=0.5,
    )


def takeover(fault: Fault, lab) -> Takeover:
    """What the clients see of a fault; a member that has to boot takes longer to come back."""
    spec = web(lab)
    within_s = 60.0 if isinstance(fault, PowerOff) else 10.0
    return Takeover(fault, lab.spec.clusters[0], spec, spec, kept(lab), LIMITS, within_s)
