"""A guest in memory: answers the guest agent's commands from a script, and keeps files and what it was asked."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from labctl.errors import GuestError

__all__ = ["ManualClock", "Said", "ScriptedGuest"]


class ManualClock:
    """A clock that moves only when somebody sleeps on it.

    Attributes:
        alarms: what happens when, in order of time.
    """

    def __init__(self) -> None:
        self.time_s = 1000.0
        self.alarms: list[tuple[float, Callable[[], None]]] = []

    def now_s(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds
        while self.alarms and self.alarms[0][0] <= self.time_s:
            self.alarms.pop(0)[1]()


@dataclass(frozen=True)
class Said:
    """How a command ends.

    Attributes:
        polls: how often it is still running when asked.
        signal: what ended it, in place of an exit code.
        lines: what else it says on standard output, one at each time that it is asked.
    """

    exit_code: int = 0
    out: bytes = b""
    err: bytes = b""
    polls: int = 0
    signal: int = 0
    lines: tuple[bytes, ...] = ()


def _set(name: str, elements: str) -> str:
    held = f"\t\telements = {{ {elements} }}\n" if elements else ""
    return f"\tset {name} {{\n\t\ttype mark\n\t\tsize 64\n{held}\t}}\n"


@dataclass
class _Process:
    said: Said
    slot: str
    asked: int = 0


@dataclass
class ScriptedGuest:
    """See the module; commands that the script does not know succeed and say nothing.

    Attributes:
        files: by path.
        modes: permissions of the files that were unpacked or moved to their place.
        ran: the commands, without labctl's wrapper around them.
        asked: every agent command.
        write_limit: how many bytes a guest-file-write takes at most.
        clock_ns: its wall clock, which stands still.
        late_ns: by how much each next setting of the clock comes late.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    ran: list[list[str]] = field(default_factory=list)
    asked: list[Mapping[str, Any]] = field(default_factory=list)
    write_limit: int = 1 << 30
    clock_ns: int = 1_700_000_000_123_456_789
    late_ns: list[int] = field(default_factory=list)
    fail: dict[str, Exception] = field(default_factory=dict)
    _script: list[tuple[tuple[str, ...], Callable[[list[str], bytes], Said]]] = field(default_factory=list)
    _processes: dict[int, _Process] = field(default_factory=dict)
    _handles: dict[int, tuple[str, int]] = field(default_factory=dict)

    def on(self, *start: str, does: Callable[[list[str], bytes], Said]) -> None:
        """What commands that begin so do, the last word being a beginning itself; the latest rule wins."""
        self._script.insert(0, (start, does))

    def says(self, *start: str, exit_code: int = 0, out: bytes = b"", err: bytes = b"") -> None:
        """What commands that begin so say."""
        said = Said(exit_code, out, err)
        self.on(*start, does=lambda _argv, _stdin: said)

    def sees(self, *host_ids: int, **sets: str) -> None:
        """The living members, as nft lists them; other sets of the packet filter by name, with their elements as text.
        A set `rules` is there unless another one is given."""
        alive = ", ".join(f"{host:#010x} timeout 2s500ms expires 2s120ms" for host in host_ids)
        elements = {"alive": alive, "rules": "0x0000beef", **sets}
        listed = "".join(_set(name, held) for name, held in elements.items())
        self.says("/usr/sbin/nft", "list", "sets", out=f"table ip labctl_web {{\n{listed}}}\n".encode())

    def __call__(self, command: Mapping[str, Any]) -> Any:
        self.asked.append(command)
        execute, arguments = command["execute"], command.get("arguments", {})
        if execute in self.fail:
            raise self.fail[execute]
        return getattr(self, "_" + execute.replace("-", "_"))(**{k.replace("-", "_"): v for k, v in arguments.items()})

    def _guest_ping(self) -> dict[str, Any]:
        return {}

    def _guest_get_time(self) -> int:
        return self.clock_ns

    def _guest_set_time(self, time: int) -> dict[str, Any]:
        return {}

    # -- processes -------------------------------------------------------------------------------------------------

    def _guest_exec(self, path: str, arg: list[str], env: list[str], capture_output: bool) -> dict[str, int]:
        pid = 100 + len(self._processes)
        if len(arg) > 5 and arg[0] == "-c" and arg[2] == "labctl":
            slot, argv = arg[3], arg[5:]
            said = self._run(argv, self.files.get(f"{slot}.in", b""))
            self.files[f"{slot}.out"], self.files[f"{slot}.err"] = said.out, said.err
        else:
            slot, said = "", self._run([path, *arg], b"")
        self._processes[pid] = _Process(said, slot)
        return {"pid": pid}

    def _guest_exec_status(self, pid: int) -> dict[str, Any]:
        process = self._processes[pid]
        process.asked += 1
        if process.asked <= len(process.said.lines):
            self.files[f"{process.slot}.out"] += process.said.lines[process.asked - 1]
        if process.asked <= process.said.polls:
            return {"exited": False}
        if process.said.signal:
            return {"exited": True, "signal": process.said.signal}
        return {"exited": True, "exitcode": process.said.exit_code}

    def _run(self, argv: list[str], stdin: bytes) -> Said:
        self.ran.append(argv)
        if argv[0] == "/bin/date":
            late_ns = self.late_ns.pop(0) if self.late_ns else 0
            self.clock_ns = int(float(argv[2].removeprefix("--set=@")) * 1e9) - late_ns
        elif argv[0] == "/bin/rm":
            for path in argv[2:]:
                self.files.pop(path, None)
        elif argv[0] == "/bin/tar":
            self._unpack(stdin)
        elif argv[:2] == ["/bin/sh", "-c"] and argv[2].startswith("chmod"):
            mode, new, path = argv[4:]
            self.files[path], self.modes[path] = self.files.pop(new), int(mode, 8)
        for start, does in self._script:
            same = tuple(argv[: len(start) - 1]) == start[:-1]
            if same and len(argv) >= len(start) and argv[len(start) - 1].startswith(start[-1]):
                return does(argv, stdin)
        return Said()

    def _unpack(self, archive: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for entry in tar:
                content = tar.extractfile(entry)
                assert content is not None
                self.files[f"/{entry.name}"], self.modes[f"/{entry.name}"] = content.read(), entry.mode

    # -- files -----------------------------------------------------------------------------------------------------

    def _guest_file_open(self, path: str, mode: str) -> int:
        if mode == "w":
            self.files[path] = b""
        elif path not in self.files:
            raise GuestError(f"agent: guest-file-open: failed to open file '{path}': No such file or directory")
        self._handles[len(self._handles) + 1] = (path, 0)
        return len(self._handles)

    def _guest_file_close(self, handle: int) -> dict[str, Any]:
        return {}

    def _guest_file_seek(self, handle: int, offset: int, whence: str) -> dict[str, Any]:
        self._handles[handle] = (self._handles[handle][0], offset)
        return {"position": offset, "eof": False}

    def _guest_file_read(self, handle: int, count: int) -> dict[str, Any]:
        path, offset = self._handles[handle]
        data = self.files[path][offset : offset + count]
        self._handles[handle] = (path, offset + len(data))
        return {"count": len(data), "buf-b64": base64.b64encode(data).decode(), "eof": len(data) < count}

    def _guest_file_write(self, handle: int, buf_b64: str) -> dict[str, Any]:
        data = base64.b64decode(buf_b64)[: self.write_limit]
        self.files[self._handles[handle][0]] += data
        return {"count": len(data), "eof": False}
