"""Who owns each client, at every instant: sends datagrams from many source addresses at a fixed rate to the virtual
address, and writes down who has answered each.

sample.py ADDRESS PORT FIRST COUNT RATE_HZ FOLDER: FOLDER/phase is what happens meanwhile, and goes into every sample;
at FOLDER/end it stops. FOLDER/samples has a JSON list a line: seconds, phase, source, and who has answered after how
many seconds.
"""

import json
import select
import socket
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path

address, port, first, count = sys.argv[1], int(sys.argv[2]), IPv4Address(sys.argv[3]), int(sys.argv[4])
every_s, folder = 1 / float(sys.argv[5]), Path(sys.argv[6])
sockets = []
for number in range(count):
    sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sockets[-1].bind((str(first + number), 40000 + number))
    sockets[-1].connect((address, port))
waiting = select.poll()
for each in sockets:
    waiting.register(each, select.POLLIN)
by_number = {each.fileno(): each for each in sockets}
sent, answers, phase = [], {}, ""


def listen(until_s):
    while True:
        ready = waiting.poll(max(0.0, (until_s - time.monotonic()) * 1000))
        for number, _event in ready:
            try:
                turn, who = by_number[number].recv(64).decode().split()
            except OSError:
                continue  # nobody listens on a member that has only just booted: no answer
            answers.setdefault(int(turn), []).append((who, time.monotonic() - sent[int(turn)][0]))
        if not ready or time.monotonic() >= until_s:
            return


began_s = time.monotonic()
while not (folder / "end").exists():
    turn = len(sent)
    phase = (folder / "phase").read_text()
    sent.append((time.monotonic(), phase))
    try:
        sockets[turn % count].send(str(turn).encode())
    except OSError:
        sockets[turn % count].send(str(turn).encode())  # an ICMP error of before; this one goes
    listen(began_s + len(sent) * every_s)
listen(time.monotonic() + 2)
lines = (json.dumps([at_s, phase, turn % count, answers.get(turn, [])]) for turn, (at_s, phase) in enumerate(sent))
(folder / "new").write_text("\n".join(lines))
(folder / "new").rename(folder / "samples")
