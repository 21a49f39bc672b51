"""The program that asks a service at a fixed rate from inside a guest, and writes down each answer.

    python3 prober.pyz PLAN OUTPUT       PLAN: a JSON file, or - for standard input; OUTPUT: appended to

PLAN holds one plan or a list of them; each has a thread of its own, since starting Python for each would cost an
emulated guest seconds. Their first requests are spread over their interval.

It stands alone: Python 3.11 or later and its standard library; `labctl.probes.archive` makes one file of this folder.
Request k is due at start + k * `interval_s`, whatever became of the ones before it, so that a server that hangs is not
hidden. Request k binds `sources[k % n]`.

OUTPUT is JSON Lines, each written at once and with the name of its plan as `probe`; times are seconds on the guest's
CLOCK_MONOTONIC:

    {"line": "start", "pid", "at"}
    {"line": "request", "k", "due", "started", "ended", "source", "port", "outcome", "member", "detail", "connection",
     "answers", "mail"}
    {"line": "clock", "real_ns", "mono", "jitter"}     every `clock_s`, at the start and at the end
    {"line": "late", "k", "due", "started"}            a request that was started more than `late_s` after it was due
    {"line": "end", "at", "reason", "started", "finished", "late"}

SIGTERM: no new requests from the next thing that happens on, the outcome of those under way, `end`, exit code 0. The
same after `limit_s`, so that it ends by itself when nobody is left to stop it.
"""
