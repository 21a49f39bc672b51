"""One SSH session's bytes: which channel it takes, where it begins and how it ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest
from lab_bench import Bench, lab_spec, node_spec
from scripted_guest import ManualClock, Said

from labctl.access import channel
from labctl.access.channel import open_session, pass_bytes
from labctl.errors import AgentGone, DeadlineExceeded, GuestError
from labctl.guest.agent import Guest
from labctl.hypervisor.fake import FakeConsole, FakeHypervisor
from labctl.hypervisor.seam import Console
from labctl.lab import Lab
from labctl.render.names import SSH_CHANNELS

KEY = "ssh-ed25519 AAAA labctl-lab"
HOST_KEY = "ssh-ed25519 BBBB root@m1"


class Node:
    """A node of a lab that is up, whose session script does what it is told to."""

    def __init__(self, *, leftovers: bytes = b"", begins: bool = True) -> None:
        self.bench = Bench()
        self.bench.parent()
        self.lab: Lab = self.bench.lab(lab_spec(node_spec("m1", 1)))
        self.lab.up(boot=True, keep=False)
        self.guest: Guest = self.lab.guest("m1")
        self.started: list[list[str]] = []
        self.at_start: Callable[[FakeConsole], None] = lambda _console: None

        def begin(argv: list[str], _stdin: bytes) -> Said:
            self.started.append(argv)
            console = self.console(argv[4])
            console.feed(leftovers)
            if begins:
                console.feed(argv[5].encode() + b"\nSSH-2.0-")
            self.at_start(console)
            return Said(out=HOST_KEY.encode() + b"\n")

        self.bench.guests["m1"].on("/bin/sh", "-c", "# In the guest", does=begin)

    @property
    def hypervisor(self) -> FakeHypervisor:
        return self.bench.hypervisor

    def console(self, name: str) -> FakeConsole:
        return self.hypervisor.consoles[self.guest.domain, name]

    def take(self, count: int) -> list[Console]:
        """Let somebody else open so many channels."""
        return [self.hypervisor.open_channel(self.guest.domain, name) for name in SSH_CHANNELS[:count]]


def test_a_session_has_a_channel_a_key_that_may_log_in_and_the_nodes_own_key() -> None:
    node = Node()
    with open_session(node.hypervisor, node.guest, KEY) as session:
        assert session.host_key == HOST_KEY
        assert session.stream.read() == b"SSH-2.0-"
    ((*_, name, _word, key),) = node.started
    assert (name, key) == (SSH_CHANNELS[0], KEY)


def test_what_an_earlier_session_had_left_to_say_is_not_this_ones() -> None:
    node = Node(leftovers=b"\x00garbage\n of another session" * 100)
    with open_session(node.hypervisor, node.guest, KEY) as session:
        assert session.stream.read() == b"SSH-2.0-"


def test_each_session_has_a_channel_of_its_own_and_lets_go_of_it() -> None:
    node = Node()
    for _ in range(2):
        with open_session(node.hypervisor, node.guest, KEY), open_session(node.hypervisor, node.guest, KEY):
            pass
    assert [argv[4] for argv in node.started] == [*SSH_CHANNELS[:2], *SSH_CHANNELS[:2]]


def test_a_session_waits_for_a_free_channel() -> None:
    node, clock = Node(), ManualClock()
    taken = node.take(len(SSH_CHANNELS))
    clock.alarms.append((clock.now_s() + 3, taken[4].close))
    with open_session(node.hypervisor, node.guest, KEY, clock):
        assert node.started[0][4] == SSH_CHANNELS[4]


def test_too_many_sessions_are_a_deadline_that_says_so() -> None:
    node = Node()
    node.take(len(SSH_CHANNELS))
    with (
        pytest.raises(DeadlineExceeded, match=r"m1: a free channel for SSH: .* all 8 are taken"),
        open_session(node.hypervisor, node.guest, KEY, ManualClock()),
    ):
        pass


def test_a_guest_whose_sshd_does_not_begin_is_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "START_WITHIN_S", 0.05)
    node = Node(begins=False)
    with (
        pytest.raises(DeadlineExceeded, match=r"m1: the sshd for labctl\.ssh\.0 begins: not within"),
        open_session(node.hypervisor, node.guest, KEY),
    ):
        pass


def test_a_channel_that_is_closed_before_the_session_begins_is_an_error() -> None:
    node = Node(begins=False)
    node.at_start = FakeConsole.close
    with (
        pytest.raises(GuestError, match=r"m1: the sshd for labctl\.ssh\.0 begins: the channel was closed"),
        open_session(node.hypervisor, node.guest, KEY),
    ):
        pass


@pytest.mark.parametrize(
    ("state", "words"), [("shut off", "m1 is shut off"), ("paused", "m1 is paused"), ("removed", "m1 is not there")]
)
def test_a_node_that_does_not_run_is_named_with_the_way_back(state: str, words: str) -> None:
    node = Node()
    does = {"shut off": "power_off", "paused": "suspend", "removed": "remove_domain"}[state]
    getattr(node.hypervisor, does)(node.guest.domain)
    with pytest.raises(GuestError, match=words) as refused, open_session(node.hypervisor, node.guest, KEY):
        pass
    assert refused.value.hint == "labctl up brings it back"


def test_a_node_without_its_agent_is_named_with_what_works_without() -> None:
    node = Node()
    node.bench.guests["m1"].fail["guest-ping"] = AgentGone("not connected")
    with (
        pytest.raises(AgentGone, match=r"m1 .*not connected") as refused,
        open_session(node.hypervisor, node.guest, KEY),
    ):
        pass
    assert refused.value.hint.startswith("labctl console m1")


# -- passing bytes -----------------------------------------------------------------------------------------------------


class Pipes:
    """What ssh has in its hands, and the two file descriptors that we have."""

    def __init__(self) -> None:
        self.source, self.to_guest = os.pipe()
        self.from_guest, self.sink = os.pipe()
        self.open = {self.source, self.to_guest, self.from_guest, self.sink}

    def close(self, descriptor: int) -> None:
        os.close(descriptor)
        self.open.remove(descriptor)

    def close_all(self) -> None:
        if self.to_guest in self.open:
            self.close(self.to_guest)
        for thread in threading.enumerate():
            if thread.name == "ssh":  # reads from what is closed next
                thread.join(10)
        for descriptor in set(self.open):
            self.close(descriptor)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    opened = Pipes()
    yield opened
    opened.close_all()


def test_bytes_pass_both_ways_until_ssh_ends(pipes: Pipes) -> None:
    console = FakeConsole()
    passing = threading.Thread(target=pass_bytes, args=(console, pipes.source, pipes.sink), daemon=True)
    passing.start()
    console.feed(b"from the guest")
    assert os.read(pipes.from_guest, 100) == b"from the guest"
    os.write(pipes.to_guest, b"to the guest")
    pipes.close(pipes.to_guest)
    passing.join(10)
    assert not passing.is_alive()
    assert (console.typed, console.ended) == (b"to the guest", True)


def test_passing_ends_when_the_guest_does(pipes: Pipes) -> None:
    console = FakeConsole()
    console.feed(b"last words")
    threading.Timer(0.05, console.close).start()
    pass_bytes(console, pipes.source, pipes.sink)
    assert os.read(pipes.from_guest, 100) == b"last words"


def test_passing_ends_when_nobody_reads_any_more(pipes: Pipes) -> None:
    console = FakeConsole()
    console.feed(b"some")
    pipes.close(pipes.from_guest)
    pass_bytes(console, pipes.source, pipes.sink)
