"""Sends users' packets, made by scapy, from a gNB and from a data network, and tells which of them arrive at the other
side, how often and in which flow. The last packet of each side is one that must pass: when it has arrived, nothing
that was sent before is on its way any more."""

import ctypes
import json
import os
import select
import socket
import sys

from scapy.all import ESP, IP, TCP, UDP, Ether, ICMP, IPv6, Raw, raw
from scapy.contrib.gtp import GTP_U_Header, GTPPDUSessionContainer

LIBC = ctypes.CDLL(None, use_errno=True)
LIMIT = 20.0


def port(namespace, interface):
    """A raw socket in another network namespace."""
    descriptor = os.open(namespace, os.O_RDONLY)
    if LIBC.setns(descriptor, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), f"setns to {namespace}")
    os.close(descriptor)
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    opened.bind((interface, 0))
    return opened


def inner(world, packet):
    """The user's packet; what it is called is in its payload."""
    up = packet["way"] == "up"
    other, user = packet.get("other", world["server"]), packet.get("user", world["ue"])
    ends = (user, other) if up else (other, user)
    here, there = packet.get("user_port", 40000), packet.get("port", 9)
    ports = {"sport": here, "dport": there} if up else {"sport": there, "dport": here}
    layer = {"udp": UDP(**ports), "tcp": TCP(flags="S", **ports), "icmp": ICMP(type=8),
             "esp": ESP(spi=packet.get("spi", 1), seq=1)}[packet.get("protocol", "udp")]
    name = packet["name"].encode() + b";"
    body = Raw(name + b"." * max(0, packet.get("length", 0) - len(name)))
    return IP(src=ends[0], dst=ends[1], tos=packet.get("tos", 0)) / layer / body


def frame(world, packet):
    """As the pod gets it."""
    if packet["way"] == "down":
        return raw(Ether(dst=world["pod_n6_mac"], src=world["dn_mac"]) / inner(world, packet))
    header = GTP_U_Header(teid=world["teid"], gtp_type=255)
    if "qfi" in packet:
        header = GTP_U_Header(teid=world["teid"], gtp_type=255, E=1, next_ex=0x85)
        header = header / GTPPDUSessionContainer(type=1, QFI=packet["qfi"])
    outer = Ether(dst=world["pod_n3_mac"], src=world["gnb_mac"]) / IP(src=world["gnb"], dst=world["pod_n3"])
    return raw(outer / UDP(sport=2152, dport=2152) / header / inner(world, packet))


def message(world, packet):
    """A GTP-U message of the gNB, whose elements are given in hexadecimal."""
    header = GTP_U_Header(teid=packet["teid"], gtp_type=packet["type"])
    if packet.get("sequence"):
        header = GTP_U_Header(teid=packet["teid"], gtp_type=packet["type"], S=1, seq=packet["sequence"])
    outer = Ether(dst=world["pod_n3_mac"], src=world["gnb_mac"]) / IP(src=world["gnb"], dst=world["pod_n3"])
    return raw(outer / UDP(sport=2152, dport=2152) / header / Raw(bytes.fromhex(packet.get("elements", ""))))


def named(payload):
    """The name in a packet's payload, if it is one of ours."""
    start = payload.rfind(b"name=")
    end = payload.find(b";", start)
    return payload[start:end].decode() if start >= 0 and end >= 0 else None


def arrived(world, side, received):
    """Name and QFI of a packet at the far side: untunnelled at the data network, in a tunnel at the gNB."""
    packet = Ether(received)
    if IP not in packet:
        return None
    if side == "up":
        return (named(received), None) if packet[Ether].src == world["pod_n6_mac"] else None
    if packet[Ether].src != world["pod_n3_mac"] or GTP_U_Header not in packet:
        return None
    # What hosts of the data network say of the user's packets quotes these.
    if ICMP in packet and packet[ICMP].type in (0, 3):
        return None
    header = packet[GTP_U_Header]
    qfi = header[GTPPDUSessionContainer].QFI if GTPPDUSessionContainer in header else None
    return (named(received), qfi) if header.teid == world["peer_teid"] else None


def main():
    world = json.load(sys.stdin)
    gnb, dn = port(world["gnb_netns"], "n3"), port(world["dn_netns"], "n6")
    far = {dn: "up", gnb: "down"}
    last = {}
    for packet in world["packets"]:
        if packet["way"] == "gtpu":
            gnb.send(message(world, packet))
            continue
        packet["name"] = "name=" + packet["name"]
        last[packet["way"]] = packet["name"]
        for _ in range(packet.get("times", 1)):
            (gnb if packet["way"] == "up" else dn).send(frame(world, packet))
    seen = {}
    while last:
        ready, _, _ = select.select(list(far), [], [], LIMIT)
        if not ready:
            break
        for one in ready:
            came = arrived(world, far[one], one.recv(4096))
            if came is None or came[0] is None:
                continue
            name, qfi = came
            count = seen.setdefault(name[5:], {"times": 0, "qfi": qfi})
            count["times"] += 1
            if last.get(far[one]) == name:
                del last[far[one]]
    json.dump({"seen": seen, "missing": [name[5:] for name in last.values()]}, sys.stdout)


main()
