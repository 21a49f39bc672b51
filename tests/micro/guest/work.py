"""Answers datagrams with what they say and who answers, one at a time, each after some work: work.py ADDRESS PORT NAME
WORK_S. What comes while it works is lost but for a few that wait, as with any server that has too much to do.
"""

import socket
import sys
import time

service = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
service.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least that the kernel gives
service.bind((sys.argv[1], int(sys.argv[2])))
while True:
    said, client = service.recvfrom(64)
    time.sleep(float(sys.argv[4]))  # not the CPU: guests that share the host's cores would slow each other down
    service.sendto(said + b" " + sys.argv[3].encode(), client)
