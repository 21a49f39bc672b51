"""The program itself."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path

from .kinds import KINDS
from .loop import Prober
from .plan import Plan

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run the plan in the file `argv[1]`, appending to `argv[2]`."""
    values = json.loads(sys.stdin.read() if argv[1] == "-" else Path(argv[1]).read_text("utf-8"))
    dialogue = tuple((awaited, reply) for awaited, reply in values.get("dialogue", ()))
    plan = Plan(**{**values, "sources": tuple(values.get("sources", ())), "dialogue": dialogue})
    if plan.kind not in KINDS:
        raise SystemExit(f"kind {plan.kind!r} is none of {', '.join(KINDS)}")
    # A server that hangs keeps rate * timeout sockets open.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    prober = Prober(plan, os.open(argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
    signal.signal(signal.SIGTERM, lambda *_: prober.stop("signal"))
    prober.run()
    return 0
