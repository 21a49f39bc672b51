"""Probes: sampling a service from inside the client guest at a fixed rate, into the history."""

from labctl.probes.probe import Expect, Kind, Probe, ProbeGuest, RunningProbe

__all__ = ["Expect", "Kind", "Probe", "ProbeGuest", "RunningProbe"]
