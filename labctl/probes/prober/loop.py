"""Asking at a fixed rate, many requests at once, in one thread."""

from __future__ import annotations

import json
import math
import os
import selectors
import time
from typing import TYPE_CHECKING, Any

from .attempt import AnswerError, Attempt, Client, Until, outcome_of
from .kinds import KINDS
from .plan import Plan

if TYPE_CHECKING:
    import ssl

__all__ = ["Prober"]

MAX_STARTS_PER_TURN = 16  # more at once would keep the answers under way waiting, and blame the server for it


class Prober:
    """Runs one plan to its end."""

    def __init__(self, plan: Plan, output: int, delay_s: float = 0.0) -> None:
        self.plan, self.delay_s = plan, delay_s
        self.output = output
        self.selector = selectors.DefaultSelector()
        self.tls = tls_context(plan) if plan.secure or plan.starttls else None
        self.kind = KINDS[plan.kind]
        self.ask = self.kind.load()
        self.clients = [Client(source) for source in plan.sources or ("",)]
        self.under_way: dict[int, Attempt] = {}  # by k
        self.next_k = self.finished = self.late = 0
        self.run_id = os.urandom(4).hex()
        self.begin = self.next_clock = self.limit = 0.0
        self.stopping = ""

    def run(self) -> None:
        """Ask until told to stop or the limit, then write down the rest."""
        self.run_id = os.urandom(4).hex()
        self.next_clock = time.monotonic()
        self.begin = self.next_clock + self.delay_s
        self.limit = self.begin + self.plan.limit_s
        self.write(line="start", pid=os.getpid(), at=self.next_clock)
        while not (self.stopping and not self.under_way):
            self.turn(time.monotonic())
        self.write_clock()
        counts = {"started": self.next_k, "finished": self.finished, "late": self.late}
        self.write(line="end", at=time.monotonic(), reason=self.stopping, **counts)

    def stop(self, reason: str) -> None:
        """Start no more requests."""
        self.stopping = self.stopping or reason

    def turn(self, now: float) -> None:
        """One round: start what is due, wait for the next thing to happen, deal with it."""
        if now >= self.next_clock:
            self.write_clock()
            self.next_clock = max(self.next_clock + self.plan.clock_s, now)
        self.expire(now)  # a source keeps one connection: what is over on it ends before the next begins
        for _ in range(MAX_STARTS_PER_TURN):
            due = self.due(self.next_k)
            if self.stopping or due > time.monotonic() or due >= self.limit:
                break
            self.start()
        if now >= self.limit <= self.due(self.next_k):  # what was due before is asked, however late
            self.stop("limit")
        if self.stopping:
            for attempt in self.under_way.values():
                attempt.ending = True
        for key, _ in self.selector.select(self.idle_s()):
            self.step(key.data)
        now = time.monotonic()
        for attempt in [a for a in self.under_way.values() if a.wakes_at <= now]:
            self.step(attempt)
        self.expire(time.monotonic())

    def due(self, k: int) -> float:
        """When request `k` is due."""
        return self.begin + k * self.plan.interval_s

    def idle_s(self) -> float:
        """Seconds until something has to be done without an answer."""
        if self.stopping and not self.under_way:
            return 0.0
        moments = [self.next_clock] if self.stopping else [self.next_clock, self.due(self.next_k), self.limit]
        waits = (min(a.deadline, a.wakes_at) for a in self.under_way.values())
        return max(0.0, min(*moments, *waits) - time.monotonic())

    def start(self) -> None:
        """Start the next request."""
        k, due, now = self.next_k, self.due(self.next_k), time.monotonic()
        self.next_k += 1
        if now - due > self.plan.late_s:
            self.late += 1
            self.write(line="late", k=k, due=due, started=now)
        attempt = Attempt(k, due, now, self.plan, self.clients[k % len(self.clients)], self.tls, self.run_id)
        self.under_way[k] = attempt
        try:
            if not attempt.take_kept():
                attempt.connect()
        except OSError as error:
            self.finish(attempt, *outcome_of(error))
            return
        if self.kind.keeps:
            attempt.client.connections += attempt.fresh
            attempt.connection = attempt.client.connections
        attempt.steps = self.ask(attempt)
        self.step(attempt)

    def step(self, attempt: Attempt) -> None:
        """Let a request go on, to its end or to the next thing that it waits for."""
        assert attempt.steps is not None
        try:
            events = next(attempt.steps)
        except StopIteration as done:
            member, detail = done.value
            self.finish(attempt, "ok", detail, member)
        except (OSError, AnswerError) as error:
            self.finish(attempt, *outcome_of(error))
        else:
            self.watch(attempt, events)

    def watch(self, attempt: Attempt, events: int | Until) -> None:
        """Wait for `events` on the connection that the attempt speaks on, or for a moment."""
        wanted = None if isinstance(events, Until) else (attempt.sock.fileno(), events)
        attempt.wakes_at = float(events) if wanted is None else math.inf
        if wanted == attempt.watched:
            return
        self.unwatch(attempt)
        if wanted is not None:
            self.selector.register(*wanted, attempt)
            attempt.watched = wanted

    def unwatch(self, attempt: Attempt) -> None:
        """Wait for nothing on the attempt's connections."""
        if attempt.watched is not None:
            self.selector.unregister(attempt.watched[0])
            attempt.watched = None

    def expire(self, now: float) -> None:
        """End the requests whose time is up."""
        for attempt in [a for a in self.under_way.values() if a.deadline <= now]:
            if attempt.answers:
                _, member, detail = attempt.answers[0]
                self.finish(attempt, "ok", detail, member)
                continue
            self.finish(attempt, "timeout", f"{attempt.stage} after {now - attempt.started:.3f} s")

    def finish(self, attempt: Attempt, outcome: str, detail: str, member: str | None = None) -> None:
        """Write the outcome down and let go of the connections."""
        ended = attempt.answers[0][0] if attempt.answers else time.monotonic()
        del self.under_way[attempt.k]
        self.unwatch(attempt)
        if outcome == "ok" and self.kind.keeps and not attempt.client.wires:
            attempt.client.wires = attempt.wires
        else:
            attempt.close()
        self.finished += 1
        self.write(
            line="request", k=attempt.k, due=attempt.due, started=attempt.started, ended=ended,
            source=attempt.client.address, port=attempt.port, outcome=outcome, member=member, detail=detail,
            connection=attempt.connection, answers=max(1, len(attempt.answers)), mail=attempt.mail,
        )  # fmt: skip

    def write_clock(self) -> None:
        """Both clocks at one moment; the best of three, since anything may come between two reads."""
        reads = [(time.monotonic(), time.time_ns(), time.monotonic()) for _ in range(3)]
        first, real_ns, last = min(reads, key=lambda r: r[2] - r[0])
        self.write(line="clock", real_ns=real_ns, mono=(first + last) / 2, jitter=last - first)

    def write(self, **values: Any) -> None:
        """One line, in one write."""
        rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}
        os.write(self.output, json.dumps({"probe": self.plan.name, **rounded}).encode() + b"\n")


def tls_context(plan: Plan) -> ssl.SSLContext:
    """Checks certificates against the guest's CA store, or the plan's."""
    import ssl  # noqa: PLC0415 - see `patiently`

    context = ssl.create_default_context(cafile=plan.ca_file or None)
    # Python 3.13 rejects certificates that curl, browsers and mail clients take; it is their view that counts here.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
