"""Asks a web service as users' programs do: looks its name up for each request, and tries one address after the other.

user.py HOST FIRST COUNT RATE_HZ PATIENCE_S FOLDER: requests begin at a fixed rate, from so many source addresses in
turn, whatever became of those before; each address is given up after so many seconds. FOLDER/phase is what happens
meanwhile; at FOLDER/end it stops. FOLDER/asked then has a JSON list a line: seconds, phase, source, how long the user
waited, how many addresses failed him, and who has answered; nobody when there was no address left.
"""

import http.client
import json
import socket
import sys
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path

host, first, count = sys.argv[1], IPv4Address(sys.argv[2]), int(sys.argv[3])
every_s, patience_s, folder = 1 / float(sys.argv[4]), float(sys.argv[5]), Path(sys.argv[6])
asked = []


def ask(source, phase):
    began_s, failed, who = time.monotonic(), 0, ""
    for *_, (address, port) in socket.getaddrinfo(host, 80, socket.AF_INET, socket.SOCK_STREAM):
        connection = http.client.HTTPConnection(address, port, timeout=patience_s, source_address=(source, 0))
        try:
            connection.request("GET", "/", headers={"Host": host})
            answer = connection.getresponse()
            said = answer.read().decode().strip()
            if answer.status == http.client.OK:
                who = said.removeprefix("served by ")
                break
        except (OSError, http.client.HTTPException):
            pass  # nobody there, or somebody who breaks off
        finally:
            connection.close()
        failed += 1
    asked.append((began_s, phase, source, round(time.monotonic() - began_s, 3), failed, who))


began_s, turn, under_way = time.monotonic(), 0, []
while not (folder / "end").exists():
    time.sleep(max(0.0, began_s + turn * every_s - time.monotonic()))
    given = (str(first + turn % count), (folder / "phase").read_text())
    under_way.append(threading.Thread(target=ask, args=given))
    under_way[-1].start()
    turn += 1
for each in under_way:
    each.join()
(folder / "new").write_text("\n".join(json.dumps(line) for line in sorted(asked)))
(folder / "new").rename(folder / "asked")
