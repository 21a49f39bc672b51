"""Packets as bytes: made by hand, and read."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

Client = tuple[str, int]  # address and port

SYN, RST, PSH, ACK = 0x02, 0x04, 0x08, 0x10
ICMPV6 = 58


@dataclass(frozen=True)
class Segment:
    """What a member has sent to a client by TCP."""

    to: Client
    port: int
    flags: int
    sequence: int


@dataclass(frozen=True)
class Advertisement:
    """An answer to a neighbour solicitation.

    Attributes:
        sender: the MAC that the frame is from.
        says: the MAC that the address is said to have.
        sound: whether its checksum is right.
    """

    sender: str
    says: str
    address: IPv6Address
    sound: bool


def checksum(data: bytes) -> int:
    """Of the Internet (RFC 1071); 0 over data that has its own right one inside."""
    padded = data + bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def version(address: str) -> int:
    return 6 if ":" in address else 4


def packet(protocol: int, source: str, to: str, payload: bytes, hops: int = 64) -> bytes:
    ends = ip_address(source).packed + ip_address(to).packed
    if version(to) == 6:
        return struct.pack(">IHBB", 6 << 28, len(payload), protocol, hops) + ends + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + ends
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def summed(protocol: int, source: str, to: str, message: bytes, at: int) -> bytes:
    """A message with its checksum, at that offset, over the pseudo header that both versions of IP have."""
    ends = ip_address(source).packed + ip_address(to).packed
    total = checksum(ends + struct.pack(">II", len(message), protocol) + message)
    return message[:at] + struct.pack(">H", total) + message[at + 2 :]


def datagram(source: Client, to: Client) -> bytes:
    return summed(17, source[0], to[0], struct.pack(">HHHH", source[1], to[1], 9, 0) + b"x", 6)


def tcp(source: Client, to: Client, flags: int, sequence: int, acknowledged: int, data: bytes) -> bytes:
    head = struct.pack(">HHIIBBHHH", source[1], to[1], sequence, acknowledged, 0x50, flags, 8192, 0, 0)
    return summed(6, source[0], to[0], head + data, 16)


def segment(frame: bytes) -> Segment | None:
    if frame[12:14] == b"\x08\x00" and frame[23] == 6:
        at, to = 14 + (frame[14] & 15) * 4, str(IPv4Address(frame[30:34]))
    elif frame[12:14] == b"\x86\xdd" and frame[20] == 6:
        at, to = 54, str(IPv6Address(frame[38:54]))
    else:
        return None
    port, to_port, sequence = struct.unpack(">HHI", frame[at : at + 8])
    return Segment((to, to_port), port, frame[at + 13], sequence)


def advertisement(frame: bytes) -> Advertisement | None:
    if frame[12:14] != b"\x86\xdd" or frame[20] != ICMPV6 or frame[54] != 136:
        return None
    return Advertisement(frame[6:12].hex(":"), frame[80:86].hex(":"), IPv6Address(frame[62:78]), sums_up(frame))


def sums_up(frame: bytes) -> bool:
    """Whether the checksum of an ICMPv6 message is right."""
    message = frame[54:]
    return checksum(frame[22:54] + struct.pack(">II", len(message), ICMPV6) + message) == 0
