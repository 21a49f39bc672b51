"""The program itself."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from .kinds import KINDS
from .loop import Prober
from .plan import Plan

__all__ = ["main"]

MOST_DELAY_S = 30.0


def main(argv: list[str]) -> int:
    """Run the plan or the plans in the file `argv[1]`, appending to `argv[2]`."""
    values = json.loads(sys.stdin.read() if argv[1] == "-" else Path(argv[1]).read_text("utf-8"))
    plans = [plan_of(v) for v in (values if isinstance(values, list) else [values])]
    # A server that hangs keeps rate * timeout sockets open.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    output = os.open(argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    probers = [Prober(plan, output, delay_of(plan, i, len(plans))) for i, plan in enumerate(plans)]

    def stop(*_: object) -> None:
        for prober in probers:
            prober.stop("signal")

    signal.signal(signal.SIGTERM, stop)
    others = [threading.Thread(target=prober.run) for prober in probers[1:]]
    for thread in others:
        thread.start()
    probers[0].run()
    for thread in others:
        thread.join()
    return 0


def delay_of(plan: Plan, number: int, count: int) -> float:
    """When a plan's first request is due, so that plans of one rate don't ask all at the same moments."""
    return min(plan.interval_s, MOST_DELAY_S) * number / count


def plan_of(values: dict[str, Any]) -> Plan:
    """A plan as JSON has it; raises SystemExit for a kind that there is not."""
    dialogue = tuple((awaited, reply) for awaited, reply in values.get("dialogue", ()))
    plan = Plan(**{**values, "sources": tuple(values.get("sources", ())), "dialogue": dialogue})
    if plan.kind not in KINDS:
        raise SystemExit(f"kind {plan.kind!r} is none of {', '.join(KINDS)}")
    return plan
