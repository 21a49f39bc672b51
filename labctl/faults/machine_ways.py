"""How a machine is broken: its power, its virtual CPUs, its cables, its disk, and the agent that reaches into it."""

from __future__ import annotations

from collections.abc import Mapping

from labctl.errors import AgentGone as NoAnswer
from labctl.errors import GuestError, InputError
from labctl.faults.ground import Ground, OnNode, Seen
from labctl.faults.model import AgentGone, DiskErrors, LinkDown, Pause, PowerOff, RebootGuest, Reset, Unplug
from labctl.inventory import DomainState
from labctl.render.names import network_name
from labctl.render.xml import NicPlan, nic_xml

__all__ = ["BootWay", "LinkDownWay", "NoAgentWay", "NoDiskWay", "PauseWay", "PowerOffWay", "UnplugWay"]


class PowerOffWay(OnNode):
    def __init__(self, fault: PowerOff, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, before)

    def inject(self) -> None:
        self._hypervisor.power_off(self._domain)

    def in_effect(self) -> Seen:
        return self._is(DomainState.SHUT_OFF)

    def heal(self) -> None:
        if self._state() is not DomainState.RUNNING:
            self._hypervisor.start_domain(self._domain)
        self._await_agent()

    def healed(self) -> Seen:
        return self._answers()


class PauseWay(OnNode):
    def __init__(self, fault: Pause, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, before)

    def inject(self) -> None:
        self._hypervisor.suspend(self._domain)

    def in_effect(self) -> Seen:
        return self._is(DomainState.PAUSED)

    def heal(self) -> None:
        if self._state() is DomainState.PAUSED:
            self._hypervisor.resume(self._domain)
        if self._state() is DomainState.RUNNING:
            # A machine that hangs keeps its clock; a paused guest's stands still, and would drag others' back with it.
            self._await_agent()
            self._guest.set_clock()

    def healed(self) -> Seen:
        return self._answers()


_BOOT_ID = "/proc/sys/kernel/random/boot_id"
# In the background, so that the command itself ends before the guest does.
_REBOOT = """
if [ -d /run/systemd/system ]; then exec systemctl --no-block reboot; fi
setsid nohup sh -c 'sleep 0.5; exec runit-init 6' >/dev/null 2>&1 </dev/null &
"""


class BootWay(OnNode):
    """Reset and reboot: another boot than before is what shows that it happened."""

    def __init__(self, fault: Reset | RebootGuest, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, before)
        self._orderly = isinstance(fault, RebootGuest)

    def before(self) -> dict[str, str]:
        return {"boot_id": self._boot_id()}

    def _boot_id(self) -> str:
        return self._guest.read_file(_BOOT_ID).decode().strip()

    def inject(self) -> None:
        if self._orderly:
            self._do(_REBOOT)
        else:
            self._hypervisor.reset(self._domain)

    def in_effect(self) -> Seen:
        try:
            now = self._boot_id()
        except NoAnswer as gone:
            return True, f"its agent has gone: {str(gone).splitlines()[0]}"
        return now != self._known.get("boot_id", now), f"boot {now}"

    def heal(self) -> None:
        self._await_agent()

    def healed(self) -> Seen:
        now = self._boot_id()
        return now != self._known.get("boot_id"), f"boot {now}"


class LinkDownWay(OnNode):
    def __init__(self, fault: LinkDown, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, before)
        self._mac = self._nic(fault.nic).mac
        self._carrier = f"/sys/class/net/{fault.nic}/carrier"

    def _seen(self, wanted: str) -> Seen:
        seen = self._guest.succeed(["/bin/cat", self._carrier])
        return seen == wanted, f"the guest sees carrier {seen}"

    def inject(self) -> None:
        self._hypervisor.set_link(self._domain, self._mac, up=False)

    def in_effect(self) -> Seen:
        return self._seen("0")

    def heal(self) -> None:
        self._hypervisor.set_link(self._domain, self._mac, up=True)

    def healed(self) -> Seen:
        return self._seen("1")


# keepalived holds on to the NIC that is gone. On a node that is in no cluster there is none.
_CONFIGURE = """
/usr/lib/labctl/boot || exit
if /usr/lib/labctl/service status keepalived >/dev/null; then exec /usr/lib/labctl/service restart keepalived; fi
"""


class UnplugWay(OnNode):
    def __init__(self, fault: Unplug, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, before)
        self._plug = self._nic(fault.nic)

    def _plugged(self) -> bool:
        domain = self._hypervisor.domain(self._domain)
        return domain is not None and any(n.mac == self._plug.mac for n in domain.nics)

    def _in_guest(self) -> bool:
        code, _ = self._sh('grep -qix "$1" /sys/class/net/*/address', self._plug.mac)
        return code == 0

    def inject(self) -> None:
        self._hypervisor.detach_nic(self._domain, self._plug.mac)

    def in_effect(self) -> Seen:
        # The hypervisor forgets the NIC only when the guest has let go of it.
        gone = not self._plugged() and not self._in_guest()
        return gone, f"the NIC is {'gone' if gone else 'still there'}"

    def heal(self) -> None:
        self._await_agent()
        if not self._plugged():
            network = network_name(self._ground.lab.name, self._plug.network)
            self._hypervisor.attach_nic(self._domain, nic_xml(NicPlan(self._plug.mac, network)))
        self._do(_CONFIGURE, within_s=self._ground.back_within_s)

    def healed(self) -> Seen:
        code, said = self._sh('ip -brief address show dev "$1" up', self._plug.name)
        return code == 0 and str(self._plug.address) in said, said


# $1: folder, $2: seconds until the guest heals itself. The heal is a script of its own, to be typed on the console.
_STOP_AGENT = """
mkdir -p "$1" && cat >"$1/heal" <<'END'
rm -rf "${0%/*}"
if [ -d /run/systemd/system ]; then systemctl start qemu-guest-agent; else sv up /etc/labctl/service/qemu-ga; fi
END
cat >"$1/run" <<'END'
sleep 0.5
if [ -d /run/systemd/system ]; then systemctl stop qemu-guest-agent; else sv down /etc/labctl/service/qemu-ga; fi
sleep "$1"
[ -e "${0%/*}/heal" ] && exec sh "${0%/*}/heal"
END
setsid nohup sh "$1/run" "$2" >/dev/null 2>&1 </dev/null &
"""
_AGENT_FOLDER = "/run/labctl-fault.agent_gone"


class NoAgentWay(OnNode):
    def __init__(self, fault: AgentGone, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, before)
        self._lasts_s = fault.lasts_s

    def inject(self) -> None:
        self._do(_STOP_AGENT, _AGENT_FOLDER, str(self._lasts_s))

    def in_effect(self) -> Seen:
        why_not = self._guest.answers()
        return bool(why_not), why_not or "its agent answers"

    def heal(self) -> None:
        # Root is logged in on the console; Ctrl-C and Enter first, for whatever somebody typed there.
        if not self._guest.answers():
            return
        console = self._hypervisor.open_console(self._domain)
        try:
            console.write(f"\x03\rsh {_AGENT_FOLDER}/heal\r".encode())
            self._await_agent()
        finally:
            console.close()

    def healed(self) -> Seen:
        return self._answers()


# FS_IOC_SHUTDOWN with EXT4_GOING_FLAGS_DEFAULT, from fs/ext4/ext4.h: flush, then fail all that follows. Later, in a
# process that has all it needs in memory, so that this command can end well before.
_SHUT_DOWN = """
import fcntl, os, struct, time
disk = os.open("/", os.O_RDONLY)
if os.fork() == 0:
    os.setsid()
    for number in range(3):
        os.dup2(os.open("/dev/null", os.O_RDWR), number)
    time.sleep(0.5)
    fcntl.ioctl(disk, 0x8004587D, struct.pack("I", 0))
    os._exit(0)
"""
_ON_DISK = "/etc/hostname"


class NoDiskWay(OnNode):
    def __init__(self, fault: DiskErrors, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, before)

    def before(self) -> dict[str, str]:
        kind = self._guest.succeed(["/usr/bin/stat", "--file-system", "--format=%T", "/"])
        if kind != "ext2/ext3":  # what stat calls the whole family
            raise InputError(f"{self._node}: its root is on {kind}, and only ext4 can be made to fail")
        return {}

    def inject(self) -> None:
        self._guest.succeed(["/usr/bin/python3", "-I", "-S", "-c", _SHUT_DOWN])

    def _reads(self) -> Seen:
        try:
            self._guest.command("guest-file-close", {"handle": self._open()})
        except NoAnswer:
            raise
        except GuestError as refused:
            return False, str(refused)
        return True, f"{_ON_DISK} can be read"

    def _open(self) -> int:
        return int(self._guest.command("guest-file-open", {"path": _ON_DISK, "mode": "r"}))

    def in_effect(self) -> Seen:
        reads, what = self._reads()
        return not reads and "Input/output error" in what, what

    def heal(self) -> None:
        if not self._guest.answers() and self._reads()[0]:
            return
        self._hypervisor.reset(self._domain)

    def healed(self) -> Seen:
        return self._reads()
