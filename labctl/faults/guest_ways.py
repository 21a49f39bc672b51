"""How a node is broken from inside: its services, its processes, its disk, CPU, memory and clock."""

from __future__ import annotations

import time
from collections.abc import Mapping

from labctl.errors import InputError
from labctl.faults.ground import Ground, OnNode, Seen
from labctl.faults.model import (
    ClockJump,
    CpuHog,
    FillDisk,
    FreezeProcess,
    KillProcess,
    MemoryHog,
    StopService,
)
from labctl.faults.text import slug

__all__ = ["ClockJumpWay", "FillDiskWay", "FreezeWay", "HogWay", "KillWay", "StopServiceWay"]

# $1: service. Unlike `service stop`, it starts again at the next boot.
_STOP = """
if [ -d /run/systemd/system ]; then exec systemctl stop "$1"; fi
exec sv -w 20 down "/etc/labctl/service/$1"
"""
_START = """
if [ -d /run/systemd/system ]; then exec systemctl start "$1"; fi
exec sv -w 20 up "/etc/labctl/service/$1"
"""
_STATUS = """
if [ -d /run/systemd/system ]; then exec systemctl is-active "$1"; fi
sv status "/etc/labctl/service/$1" | grep '^run:'
"""


class StopServiceWay(OnNode):
    def __init__(self, fault: StopService, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, before)
        self._service = fault.service

    def _runs(self) -> Seen:
        code, said = self._sh(_STATUS, self._service)
        return code == 0, said or "it is down"

    def before(self) -> dict[str, str]:
        runs, said = self._runs()
        if not runs:
            raise InputError(f"{self._node}: service {self._service} does not run, so it can't be stopped: {said}")
        return {}

    def inject(self) -> None:
        self._do(_STOP, self._service)

    def in_effect(self) -> Seen:
        runs, said = self._runs()
        return not runs, said

    def heal(self) -> None:
        self._await_agent()
        self._do(_START, self._service)

    def healed(self) -> Seen:
        return self._runs()


class _Processes(OnNode):
    def __init__(self, ground: Ground, node: str, process: str, before: Mapping[str, str]) -> None:
        super().__init__(ground, node, before)
        self._process = process
        if process == "qemu-ga":
            raise InputError(f"{node}: without qemu-ga nobody could heal it", hint="the fault agent-gone can be healed")

    def _pids(self, *options: str) -> list[str]:
        return self._guest.run(["/usr/bin/pgrep", "-x", *options, self._process]).text.split()

    def before(self) -> dict[str, str]:
        pids = self._pids()
        if not pids:
            raise InputError(f"{self._node}: there is no process {self._process}")
        return {"pids": " ".join(pids)}


class KillWay(_Processes):
    def __init__(self, fault: KillProcess, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, fault.process, before)
        self._service = fault.service or fault.process

    def inject(self) -> None:
        self._guest.run(["/usr/bin/pkill", "-KILL", "-x", self._process])

    def in_effect(self) -> Seen:
        killed = self._known.get("pids", "").split()
        left = sorted(set(self._pids()) & set(killed))
        return bool(killed) and not left, f"{len(killed) - len(left)} of {len(killed)} processes are gone"

    def heal(self) -> None:
        self._await_agent()
        if not self._pids() and self._sh(_STATUS, self._service)[0]:
            self._do(_START, self._service)

    def healed(self) -> Seen:
        pids = self._pids()
        return bool(pids), f"{len(pids)} processes {self._process}"


class FreezeWay(_Processes):
    def __init__(self, fault: FreezeProcess, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, fault.process, before)

    def _signal(self, name: str) -> None:
        self._guest.run(["/usr/bin/pkill", f"-{name}", "-x", self._process])

    def _frozen(self) -> tuple[int, int]:
        """How many stand still, and how many there are."""
        return len(self._pids("--runstates", "T")), len(self._pids())

    def inject(self) -> None:
        self._signal("STOP")

    def in_effect(self) -> Seen:
        frozen, there = self._frozen()
        return bool(there) and frozen == there, f"{frozen} of {there} processes {self._process} stand still"

    def heal(self) -> None:
        self._await_agent()
        self._signal("CONT")

    def healed(self) -> Seen:
        frozen, there = self._frozen()
        return not frozen, f"{frozen} of {there} processes {self._process} stand still"


# $1: directory. Ever smaller pieces, until not even a block is left.
_FILL = """
file=$1/labctl-fault.fill have=0
rm -f "$file"
step=$(($(stat --file-system --format='%f * %S' "$1")))
while [ "$step" -ge 4096 ]; do
    if fallocate --offset "$have" --length "$step" "$file" 2>/dev/null
    then have=$((have + step))
    else step=$((step / 2)); fi
done
"""
_WRITE = """
dd if=/dev/zero of="$1/labctl-fault.try" bs=64k count=1 conv=fsync 2>&1
code=$?
rm -f "$1/labctl-fault.try"
exit $code
"""


class FillDiskWay(OnNode):
    def __init__(self, fault: FillDisk, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, before)
        self._path = fault.path

    def before(self) -> dict[str, str]:
        code, said = self._sh(_WRITE, self._path)
        if code:
            raise InputError(f"{self._node}: {self._path} can't be written to before it is filled: {said}")
        return {}

    def inject(self) -> None:
        self._do(_FILL, self._path, within_s=300.0)

    def in_effect(self) -> Seen:
        code, said = self._sh(_WRITE, self._path)
        return code != 0 and "No space left" in said, said

    def heal(self) -> None:
        self._await_agent()
        self._do('rm -f "$1"/labctl-fault.fill "$1"/labctl-fault.try', self._path)

    def healed(self) -> Seen:
        code, said = self._sh(_WRITE, self._path)
        return code == 0, said


# $1: folder, which is the working directory of all hogs and tells them from other processes; the rest: the program.
_HOG = """
mkdir -p "$1" && cd "$1" || exit
shift
setsid nohup "$@" >/dev/null 2>&1 </dev/null &
"""
# $1: folder. Lists the hogs' process ids.
_HOGS = 'for p in /proc/[0-9]*; do [ "$p/cwd" -ef "$1" ] && echo "${p#/proc/}"; done; true'
_END_HOGS = f"""
pids=$({_HOGS})
while [ -n "$pids" ]; do kill -KILL $pids 2>/dev/null; sleep 0.1; pids=$({_HOGS}); done
rm -rf -- "$1"
"""
_SPIN = 'n=$1; while [ "$n" -gt 1 ]; do (while :; do :; done) & n=$((n - 1)); done; while :; do :; done'
# In pieces, so that there is never less left than what is to be left.
_HOLD = """
import sys, time
open("/proc/self/oom_score_adj", "w").write("1000")
def available_kib():
    return next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemAvailable"))
held = []
while True:
    if available_kib() > int(sys.argv[1]) * 1024 + 1024:
        held.append(b"\\1" * (1 << 20))
    else:
        time.sleep(0.2)
"""


class HogWay(OnNode):
    """Processes that take what others need."""

    def __init__(self, fault: CpuHog | MemoryHog, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, before)
        self._fault = fault
        self._folder = f"/run/labctl-fault.{slug(fault)}"

    def inject(self) -> None:
        if isinstance(self._fault, CpuHog):
            program = ["/bin/sh", "-c", _SPIN, "sh", str(self._fault.workers)]
        else:
            program = ["/usr/bin/python3", "-I", "-S", "-c", _HOLD, str(self._fault.leave_mib)]
        self._do(_HOG, self._folder, *program)

    def _hogs(self) -> list[str]:
        return self._sh(_HOGS, self._folder)[1].split()

    def in_effect(self) -> Seen:
        hogs = self._hogs()
        if isinstance(self._fault, CpuHog):
            return len(hogs) >= self._fault.workers, f"{len(hogs)} processes compute"
        _, said = self._sh("awk '/^MemAvailable/ {print int($2 / 1024)}' /proc/meminfo")
        return bool(hogs) and int(said) <= self._fault.leave_mib + 8, f"{said} MiB of memory are left"

    def heal(self) -> None:
        self._await_agent()
        self._do(_END_HOGS, self._folder)

    def healed(self) -> Seen:
        hogs = self._hogs()
        return not hogs, f"{len(hogs)} processes left" if hogs else "its processes are gone"


class ClockJumpWay(OnNode):
    NEAR_S = 5.0  # so far off is no jump: emulated guests on a busy host

    def __init__(self, fault: ClockJump, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, before)
        self._by_s = fault.by_s
        if abs(fault.by_s) <= self.NEAR_S:
            raise InputError(
                f"clock-jump by {fault.by_s} s can't be told from none: more than {self.NEAR_S:g} s, please"
            )

    def _ahead(self) -> tuple[float, str]:
        ahead_s = (self._guest.clock_ns() - time.time_ns()) / 1e9
        return ahead_s, f"its clock is {ahead_s:+.1f} s off the host's"

    def inject(self) -> None:
        self._guest.set_clock(lambda: time.time_ns() + round(self._by_s * 1e9))

    def in_effect(self) -> Seen:
        ahead_s, what = self._ahead()
        return abs(ahead_s - self._by_s) < self.NEAR_S, what

    def heal(self) -> None:
        self._await_agent()
        self._guest.set_clock(time.time_ns)

    def healed(self) -> Seen:
        ahead_s, what = self._ahead()
        return abs(ahead_s) < self.NEAR_S, what
