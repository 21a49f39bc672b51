"""Answers datagrams to the virtual address with what they say and who answers: echo.py ADDRESS PORT NAME."""

import socket
import sys

service = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
service.bind((sys.argv[1], int(sys.argv[2])))
while True:
    said, client = service.recvfrom(64)
    service.sendto(said + b" " + sys.argv[3].encode(), client)
