"""The failover scenario on the Client Access array; see `takeover`."""

from __future__ import annotations

from takeover import Takeover

from labctl.checks import SamplerLimits
from labctl.faults import PowerOff
from labctl.probes.probe import Expect, Kind, Probe

REJOIN_WITHIN_S = 600.0
CLIENTS = 20
# The client is emulated beside the rest of the lab, so it pauses now and then. Intervals are reckoned from when
# requests were really made, so a pause widens what is reported; from so much on the verdict is INCONCLUSIVE.
LIMITS = SamplerLimits(rate_share=0.9, gap_s=4.0, late_share=0.25)


def webmail(lab):
    """HTTPS to the virtual address by its name, certificate checked: who serves whom, and whether anybody fails."""
    cluster = lab.cluster("mail")
    return Probe(
        name="webmail",
        kind=Kind.HTTPS,
        address=str(cluster.address.ip),
        port=443,
        host=cluster.fqdn,
        sources=clients(lab),
        rate_hz=4.0,
        timeout_s=6.0,  # emulated, a TLS handshake takes tenths of a second, and several on a busy host
        late_s=1.0,
        expect=Expect(body=cluster.fqdn),
    )


def connect(lab):
    """Bare connections to the same port from the same clients: cheap, so often, and each speaks of one moment."""
    cluster = lab.cluster("mail")
    return Probe(
        name="connect",
        kind=Kind.TCP,
        address=str(cluster.address.ip),
        port=443,
        sources=clients(lab),
        rate_hz=10.0,
        timeout_s=0.9,
        late_s=0.5,
    )


def kept(lab):
    """The same requests on connections that last, from other clients, seldom: what matters is that they last."""
    cluster = lab.cluster("mail")
    return Probe(
        name="kept",
        kind=Kind.KEPT_TLS,
        address=str(cluster.address.ip),
        port=443,
        host=cluster.fqdn,
        sources=tuple(str(a) for a in lab.spec.node("client").nics[0].extra_addresses[-8:]),
        rate_hz=1.0,
        timeout_s=6.0,
        late_s=1.0,
    )


def clients(lab):
    """Source addresses in the client guest."""
    return tuple(str(a) for a in lab.spec.node("client").nics[0].extra_addresses[:CLIENTS])


def takeover(lab) -> Takeover:
    """The first member of the array loses power and comes back."""
    cluster = lab.cluster("mail")
    fault = PowerOff(cluster.members[0].node)
    return Takeover(fault, cluster, webmail(lab), connect(lab), kept(lab), LIMITS, REJOIN_WITHIN_S)
