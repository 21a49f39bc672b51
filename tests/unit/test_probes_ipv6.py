"""The prober asks IPv6 addresses from IPv6 sources; in a network namespace, whose loopback has what it needs."""

from __future__ import annotations

import ctypes
import os
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from test_probes_prober import Started

from labctl.probes.probe import Kind, Probe

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")

ADDRESS, SOURCES = "fd00::20", ("fd00:1::11", "fd00:1::12", "fd00:1::13")
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of linux/sched.h


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Tells its clients who they are, and whom they have asked for."""

    address_family = socket.AF_INET6
    daemon_threads = True

    def finish_request(self, request: Any, client_address: Any) -> None:
        said = request.recv(65536).decode()
        host = next(line for line in said.splitlines() if line.startswith("Host: ")).removeprefix("Host: ")
        body = f"member={client_address[0]} host={host} ".encode()
        request.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


@pytest.fixture
def namespace() -> Iterator[ThreadPoolExecutor]:
    """A thread in a network namespace of its own; what it starts is in there, too."""

    def enter() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for address in (ADDRESS, *SOURCES):
            subprocess.run(["ip", "address", "add", f"{address}/128", "dev", "lo", "nodad"], check=True)

    with ThreadPoolExecutor(1, initializer=enter) as thread:
        yield thread


@pytest.mark.parametrize(("name", "asked"), [("", f"[{ADDRESS}]"), ("web.test", "web.test")])
def test_ipv6_sources_ask_an_ipv6_address_each_in_turn(
    namespace: ThreadPoolExecutor, tmp_path: Path, name: str, asked: str
) -> None:
    server = namespace.submit(Server, (ADDRESS, 0), socketserver.BaseRequestHandler).result(timeout=30)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    probe = Probe("six", Kind.HTTP, ADDRESS, server.server_address[1], host=name, sources=SOURCES, limit_s=0.5)
    plan = {**probe.plan(), "member": "member=(\\S+)", "body": f"host={asked} ".replace("[", "\\["), "timeout_s": 5}
    try:
        run = namespace.submit(Started, tmp_path, **plan).result(timeout=30).end()
    finally:
        server.shutdown()
        server.server_close()
    requests = run.of("request")
    assert len(requests) > 6
    assert {(r["outcome"], r["detail"]) for r in requests} == {("ok", "200")}
    assert [r["source"] for r in requests] == [SOURCES[r["k"] % 3] for r in requests]
    assert all(r["member"] == r["source"] for r in requests)
