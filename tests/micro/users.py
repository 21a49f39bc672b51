"""Users of a service in the client guest: one who asks at a fixed rate, and connections that are held open."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from labctl.clock import Deadline, wait_until
from labctl.errors import GuestError
from labctl.guest.agent import Guest

PROGRAMS = Path(__file__).with_name("guest")
HIT_S = 0.9


@dataclass(frozen=True)
class Asked:
    """A request: when it began, what happened meanwhile, how long its user waited, who has answered in the end.

    Attributes:
        at_s: seconds on the guest's clock.
        failed_tries: how many addresses did not answer him.
        who: empty when none did.
    """

    at_s: float
    phase: str
    source: str
    waited_s: float
    failed_tries: int
    who: str

    @property
    def hit(self) -> bool:
        """Whether its user noticed: it failed, or took as long as after a lost SYN."""
        return not self.who or self.waited_s > HIT_S


@dataclass(frozen=True)
class Load:
    """How a user asks: from so many addresses in turn, each of the service's given up after `patience_s`."""

    first: str
    count: int
    rate_hz: float
    patience_s: float


class User:
    """Asks from entering to leaving the block, or to `asked`."""

    def __init__(self, guest: Guest, host: str, load: Load) -> None:
        self._guest, self._folder = guest, "/run/user"
        self._arguments = f"{host} {load.first} {load.count} {load.rate_hz} {load.patience_s} {self._folder}"

    def __enter__(self) -> User:
        _start(self._guest, self._folder, "user.py", self._arguments, phase="calm")
        return self

    def __exit__(self, *_error: object) -> None:
        _end(self._guest, self._folder)

    def phase(self, name: str) -> None:
        """What happens from now on."""
        self._guest.shell(f"echo -n '{name}' >{self._folder}/next && mv {self._folder}/next {self._folder}/phase")

    def asked(self) -> list[Asked]:
        """All requests, in the order in which they began; there are no more."""
        self._guest.shell(f"touch {self._folder}/end")
        said = _awaited(self._guest, self._folder, "asked")
        return [Asked(*json.loads(line)) for line in said.decode().splitlines()]


class Held:
    """Connections that the client holds open to an address, from entering to leaving the block."""

    def __init__(self, guest: Guest, address: str, first: str, count: int) -> None:
        self._guest, self._folder, self._round = guest, "/run/held", 0
        self._arguments = f"{address} {first} {count} {self._folder}"

    def __enter__(self) -> Held:
        _start(self._guest, self._folder, "hold.py", self._arguments, phase="")
        return self

    def __exit__(self, *_error: object) -> None:
        _end(self._guest, self._folder)

    def answered(self, by: Iterable[str]) -> set[str]:
        """The connections, by source, on which one of those still answers."""
        self._guest.shell(f"touch {self._folder}/ask.{self._round}")
        said = json.loads(_awaited(self._guest, self._folder, f"said.{self._round}"))
        self._round += 1
        return {source for source, who in said.items() if who in by}


def _start(guest: Guest, folder: str, program: str, arguments: str, phase: str) -> None:
    guest.shell(f"rm -rf {folder}; mkdir {folder}; echo -n '{phase}' >{folder}/phase")
    guest.write_file(f"{folder}/{program}", (PROGRAMS / program).read_bytes())
    guest.shell(f"setsid python3 {folder}/{program} {arguments} >{folder}/log 2>&1 </dev/null &\necho $! >{folder}/pid")


def _end(guest: Guest, folder: str) -> None:
    guest.shell(f"if [ -e {folder}/pid ]; then kill $(cat {folder}/pid) 2>/dev/null; rm -rf {folder}; fi")


def _awaited(guest: Guest, folder: str, file: str) -> bytes:
    def there() -> tuple[bytes | None, str]:
        try:
            return guest.read_file(f"{folder}/{file}"), ""
        except GuestError as not_yet:
            return None, f"{not_yet}; {guest.shell(f'cat {folder}/log')}"

    return wait_until(f"{folder}/{file} of {guest.name}", there, Deadline.within(120), every_s=0.5)
