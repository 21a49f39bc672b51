"""Holds HTTP connections from many source addresses open, and asks again on each of them whenever it is told to.

hold.py ADDRESS FIRST COUNT FOLDER: round N begins when FOLDER/ask.N is there, and ends with FOLDER/said.N, which says
by source who has answered, or what became of the connection.
"""

import http.client
import json
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path


def ask(connection):
    try:
        connection.request("GET", "/", headers={"Host": "web.micro.test"})
        return connection.getresponse().read().decode().strip().removeprefix("served by ")
    except (OSError, http.client.HTTPException) as lost:
        return type(lost).__name__


address, first, count, folder = sys.argv[1], IPv4Address(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
held = {}
for number in range(count):
    source = str(first + number)
    held[source] = http.client.HTTPConnection(address, 80, timeout=10, source_address=(source, 0))
    held[source].connect()
    held[source].auto_open = 0  # a connection that was lost stays lost
for turn in range(100):
    while not (folder / f"ask.{turn}").exists():
        time.sleep(0.05)
    said = {source: ask(connection) for source, connection in held.items()}
    (folder / "new").write_text(json.dumps(said))
    (folder / "new").rename(folder / f"said.{turn}")
