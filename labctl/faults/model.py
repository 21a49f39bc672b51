"""Faults as data: what to break; how is in the `…_ways` modules beside this one.

A fault is a frozen dataclass. Its `kind` tells it from others on the same node and is its name in the history; its
`target` is what it is done to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

__all__ = [
    "AgentGone",
    "CertificateExpired",
    "ClockJump",
    "Corrupt",
    "CpuHog",
    "Delay",
    "Direction",
    "DiskErrors",
    "DnsOutage",
    "Duplicate",
    "Fault",
    "FillDisk",
    "FreezeProcess",
    "Impairment",
    "KillProcess",
    "LinkDown",
    "Loss",
    "MemoryHog",
    "Partition",
    "Pause",
    "PowerOff",
    "Rate",
    "RebootGuest",
    "Reorder",
    "Reset",
    "StopService",
    "Unplug",
]


class Direction(StrEnum):
    """Which frames of a NIC are meant, as the node sees them."""

    BOTH = "both"
    OUT = "out"
    IN = "in"


@dataclass(frozen=True, slots=True)
class _OnNode:
    """A fault of one node.

    Attributes:
        NAME: of the kind, as users type it.
        TELLS: the attributes that tell two faults of this kind on one node apart.
    """

    node: str

    NAME: ClassVar[str]
    TELLS: ClassVar[tuple[str, ...]] = ()

    @property
    def kind(self) -> str:
        """As the history names it, such as `power-off` or `link-down cluster`."""
        return " ".join([self.NAME, *(str(getattr(self, name)) for name in self.TELLS)])

    @property
    def target(self) -> str:
        """What it is done to."""
        return self.node

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that something is done to."""
        return (self.node,)


# -- the machine -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PowerOff(_OnNode):
    """The node's plug is pulled; healed by powering it on."""

    NAME: ClassVar[str] = "power-off"


@dataclass(frozen=True, slots=True)
class Reset(_OnNode):
    """The reset button is pressed: no shutdown, a boot at once; healed when it has booted."""

    NAME: ClassVar[str] = "reset"


@dataclass(frozen=True, slots=True)
class RebootGuest(_OnNode):
    """An orderly reboot, services stopped first; healed when it has booted."""

    NAME: ClassVar[str] = "reboot"


@dataclass(frozen=True, slots=True)
class Pause(_OnNode):
    """The node's virtual CPUs stop, as when it hangs; healed by letting them run on."""

    NAME: ClassVar[str] = "pause"


@dataclass(frozen=True, slots=True)
class AgentGone(_OnNode):
    """The guest agent stops, so that the harness can't reach into the node, which serves on.

    Healed over the serial console, and by the guest itself after `lasts_s`, if nobody is left to do it.
    """

    lasts_s: int = 600

    NAME: ClassVar[str] = "agent-gone"


@dataclass(frozen=True, slots=True)
class DiskErrors(_OnNode):
    """Every access to the root disk fails (EIO), as when it has died; what is in memory runs on. Healed by a reset.

    What was written before is flushed first, so that the node comes back whole.
    """

    NAME: ClassVar[str] = "disk-errors"


# -- the network -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinkDown(_OnNode):
    """A NIC's cable is pulled: the guest sees the carrier go; healed by plugging it in."""

    nic: str

    NAME: ClassVar[str] = "link-down"
    TELLS: ClassVar[tuple[str, ...]] = ("nic",)


@dataclass(frozen=True, slots=True)
class Unplug(_OnNode):
    """A NIC is taken out of the running node; healed by putting it in and configuring it anew."""

    nic: str

    NAME: ClassVar[str] = "unplug"
    TELLS: ClassVar[tuple[str, ...]] = ("nic",)


@dataclass(frozen=True, slots=True)
class Impairment(_OnNode):
    """A NIC whose cable is bad (tc-netem(8)); several kinds at once on one NIC add up."""

    nic: str

    TELLS: ClassVar[tuple[str, ...]] = ("nic",)


@dataclass(frozen=True, slots=True)
class Loss(Impairment):
    """A share of the frames is lost, each by chance; a seed makes the chance repeat itself."""

    percent: float
    direction: Direction = Direction.BOTH
    seed: int | None = None

    NAME: ClassVar[str] = "loss"


@dataclass(frozen=True, slots=True)
class Delay(Impairment):
    """Every frame comes later, by `ms` plus or minus up to `jitter_ms`."""

    ms: float
    jitter_ms: float = 0.0
    direction: Direction = Direction.BOTH

    NAME: ClassVar[str] = "delay"


@dataclass(frozen=True, slots=True)
class Duplicate(Impairment):
    """A share of the frames comes twice."""

    percent: float
    direction: Direction = Direction.BOTH
    seed: int | None = None

    NAME: ClassVar[str] = "duplicate"


@dataclass(frozen=True, slots=True)
class Reorder(Impairment):
    """A share of the frames overtakes the others, which are held up for `ms`."""

    percent: float
    ms: float = 10.0
    direction: Direction = Direction.BOTH
    seed: int | None = None

    NAME: ClassVar[str] = "reorder"


@dataclass(frozen=True, slots=True)
class Corrupt(Impairment):
    """A share of the frames has one bit flipped."""

    percent: float
    direction: Direction = Direction.BOTH
    seed: int | None = None

    NAME: ClassVar[str] = "corrupt"


@dataclass(frozen=True, slots=True)
class Rate(Impairment):
    """The cable carries no more than `kbit_s`."""

    kbit_s: int
    direction: Direction = Direction.BOTH

    NAME: ClassVar[str] = "rate"


@dataclass(frozen=True, slots=True)
class Partition:
    """Groups of nodes that don't hear each other; nodes in no group hear everybody. ARP is cut as well.

    Attributes:
        groups: at least two, of nodes; as typed: `m1/m2,client`.
        one_way: later groups don't hear earlier ones, and are heard.
        heartbeat_only: only the cluster's heartbeat (VRRP) is cut.
    """

    groups: tuple[tuple[str, ...], ...]
    one_way: bool = False
    heartbeat_only: bool = False

    NAME: ClassVar[str] = "partition"

    @property
    def kind(self) -> str:
        """As the history names it."""
        return self.NAME

    @property
    def target(self) -> str:
        """The groups as one types them."""
        return "/".join(",".join(group) for group in self.groups)

    @property
    def node(self) -> str:
        """The same: it is done to no single node."""
        return self.target

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that hear less than they should."""
        deaf = self.groups[1:] if self.one_way else self.groups
        return tuple(name for group in deaf for name in group)

    def unheard(self, node: str) -> tuple[str, ...]:
        """The nodes that `node` does not hear."""
        mine = next(i for i, group in enumerate(self.groups) if node in group)
        others = self.groups[:mine] if self.one_way else (*self.groups[:mine], *self.groups[mine + 1 :])
        return tuple(name for group in others for name in group)


@dataclass(frozen=True, slots=True)
class DnsOutage(_OnNode):
    """No DNS (port 53, UDP and TCP) gets into the node or out of it, whether it asks or answers."""

    NAME: ClassVar[str] = "dns-outage"


# -- inside the guest --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StopService(_OnNode):
    """A service is stopped in order, and starts again at the next boot; healed by starting it."""

    service: str

    NAME: ClassVar[str] = "stop-service"
    TELLS: ClassVar[tuple[str, ...]] = ("service",)


@dataclass(frozen=True, slots=True)
class KillProcess(_OnNode):
    """All processes of a name are killed (SIGKILL); healed when one is there again, by its service if need be.

    Attributes:
        process: as in `pgrep -x`.
        service: what starts it, when that has another name.
    """

    process: str
    service: str = ""

    NAME: ClassVar[str] = "kill-process"
    TELLS: ClassVar[tuple[str, ...]] = ("process",)


@dataclass(frozen=True, slots=True)
class FreezeProcess(_OnNode):
    """All processes of a name stand still (SIGSTOP), as when they hang; healed by letting them run on."""

    process: str

    NAME: ClassVar[str] = "freeze-process"
    TELLS: ClassVar[tuple[str, ...]] = ("process",)


@dataclass(frozen=True, slots=True)
class FillDisk(_OnNode):
    """The file system under `path` is full, for root too; healed by removing the file that fills it."""

    path: str = "/var"

    NAME: ClassVar[str] = "fill-disk"
    TELLS: ClassVar[tuple[str, ...]] = ("path",)


@dataclass(frozen=True, slots=True)
class CpuHog(_OnNode):
    """Processes that do nothing but compute."""

    workers: int = 4

    NAME: ClassVar[str] = "cpu-hog"


@dataclass(frozen=True, slots=True)
class MemoryHog(_OnNode):
    """A process takes all memory but `leave_mib`; the kernel kills it first when memory runs out."""

    leave_mib: int = 24

    NAME: ClassVar[str] = "memory-hog"


@dataclass(frozen=True, slots=True)
class ClockJump(_OnNode):
    """The wall clock is set forward (or back) by `by_s`; healed by the host's time."""

    by_s: float

    NAME: ClassVar[str] = "clock-jump"


@dataclass(frozen=True, slots=True)
class CertificateExpired(_OnNode):
    """The node shows a certificate of the lab's authority that ended yesterday; healed by putting the right one back.

    Attributes:
        port: on which it is looked at, TLS from the first byte on; all services of the node show the same certificate.
    """

    port: int = 443

    NAME: ClassVar[str] = "certificate-expired"


Fault = (
    PowerOff
    | Reset
    | RebootGuest
    | Pause
    | AgentGone
    | DiskErrors
    | LinkDown
    | Unplug
    | Loss
    | Delay
    | Duplicate
    | Reorder
    | Corrupt
    | Rate
    | Partition
    | DnsOutage
    | StopService
    | KillProcess
    | FreezeProcess
    | FillDisk
    | CpuHog
    | MemoryHog
    | ClockJump
    | CertificateExpired
)
