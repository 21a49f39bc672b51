"""Probes: sampling a service from inside the client guest at a fixed rate, into the history."""

from labctl.probes.mailbox import Mailbox, read_mailbox
from labctl.probes.probe import Expect, Kind, Probe, ProbeGuest, RunningProbe

__all__ = ["Expect", "Kind", "Mailbox", "Probe", "ProbeGuest", "RunningProbe", "read_mailbox"]
