"""Reads packets that came to and left a UPF, with scapy: what leaves must be what TS 29.281, TS 38.415, RFC 792,
RFC 1191, RFC 4443 and RFC 6040 make of what came. Written from those, and not from netplane's code."""
import json
import sys
from ipaddress import ip_address

from scapy.all import (DNS, ICMP, IP, UDP, Dot1Q, Ether, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6, raw,
                       split_layers)
from scapy.contrib.gtp import (GTPEchoResponse, GTPErrorIndication, GTPHeader, GTPPDUSessionContainer, GTP_U_Header,
                               IE_GSNAddress, IE_Recovery, IE_TEIDI)

# What users say to each other stays bytes.
split_layers(UDP, DNS)

ECHO_REQUEST, ECHO_RESPONSE, ERROR_INDICATION, END_MARKER, G_PDU = 1, 2, 26, 254, 255


def check(right, what):
    if not right:
        raise AssertionError(what)


def equal(name, got, wanted):
    check(got == wanted, f"{name} is {got!r}, should be {wanted!r}")


def ip_of(frame):
    """The outermost IP packet."""
    layer = frame
    while type(layer) in (Ether, Dot1Q):
        layer = layer.payload
    check(type(layer) in (IP, IPv6), f"{type(layer).__name__}, not IP")
    return layer


def ip(data):
    return IP(data) if data[0] >> 4 == 4 else IPv6(data)


def ttl(packet):
    return packet.ttl if packet.version == 4 else packet.hlim


def traffic_class(packet):
    return packet.tos if packet.version == 4 else packet.tc


def length(packet):
    return packet.len if packet.version == 4 else 40 + packet.plen


def gtpu(packet):
    """Message and T-PDU of a GTP-U packet, by hand: scapy does not know every extension header."""
    data = raw(packet[UDP].payload)[:packet[UDP].len - 8]
    size = int.from_bytes(data[2:4], "big")
    check(len(data) == 8 + size, f"GTP-U says {size} of {len(data) - 8} bytes")
    at, extensions = 8, []
    if data[0] & 7:
        kind = data[11] if data[0] & 4 else 0
        at = 12
        while kind:
            extensions.append((kind, data[at:at + 4 * data[at]]))
            at += 4 * data[at]
            kind = data[at - 1]
    return {"flags": data[0], "type": data[1], "teid": int.from_bytes(data[4:8], "big"),
            "sequence": data[8:10] if data[0] & 2 else None, "extensions": extensions, "inside": data[at:], "all": data}


def is_gtpu(packet):
    return UDP in packet and type(packet.payload) is UDP and 2152 in (packet[UDP].dport, packet[UDP].sport) \
        and raw(packet[UDP].payload)[:1] and raw(packet[UDP].payload)[0] >> 4 == 3


def is_users(packet, layer):
    """UDP that is not the tunnel's."""
    return type(layer) is UDP and not (is_gtpu(ip_of(packet)) and layer is ip_of(packet).payload)


def computed(packet):
    """The packet with every length and checksum computed anew, but for what users wrote, quotes in ICMP, and an
    absent checksum of the tunnel's UDP."""
    packet = packet.copy()
    layer = packet
    while layer and "error" not in type(layer).__name__ and not is_users(packet, layer):
        for field in ("len", "chksum", "plen", "cksum", "length"):
            if field in layer.fields and not (type(layer) is UDP and field == "chksum" and layer.chksum == 0):
                if not (type(layer) in (ICMP, ICMPv6PacketTooBig, ICMPv6TimeExceeded) and field == "length"):
                    layer.delfieldval(field)
        layer = layer.payload
    # Else bytes that were parsed are given out as they were.
    packet.clear_cache()
    return raw(packet)


def one_hop(packet, congested=False):
    """The packet behind a router; a congested tunnel marks it (RFC 6040 §4.2)."""
    packet = ip(raw(packet)[:length(packet)])
    if packet.version == 4:
        packet.ttl -= 1
        packet.tos |= 3 if congested else 0
        packet.chksum = None
    else:
        packet.hlim -= 1
        packet.tc |= 3 if congested else 0
    return raw(packet)


def link(frame, source, destinations, tagged):
    equal("source MAC", frame[Ether].src, source)
    check(frame[Ether].dst in destinations, f"destination MAC {frame[Ether].dst}")
    if tagged:
        equal("VLAN", frame[Dot1Q].vlan, world["vlan"])
    else:
        check(Dot1Q not in frame, "a VLAN tag")


def outer(packet, peers, ports=(2152, 2152)):
    """What every packet of GTP-U that starts at the pod has."""
    check(packet.src in world["pod_n3"], f"outer source {packet.src}")
    check(packet.dst in peers, f"outer destination {packet.dst}")
    equal("outer TTL", ttl(packet), 64)
    if packet.version == 4:
        equal("flags", str(packet.flags), "DF")
        equal("outer header", packet.ihl, 5)
    equal("ports", (packet[UDP].sport, packet[UDP].dport), ports)


def tunnelled(name, packet, inside):
    """A G-PDU to the gNB around these bytes."""
    outer(packet, world["gnb"])
    message = gtpu(packet)
    header = packet[GTP_U_Header]
    equal("version and protocol type", (header.version, header.PT), (1, 1))
    equal("message", header.gtp_type, G_PDU)
    equal("TEID", header.teid, world["downlink_teid"])
    equal("sequence and N-PDU flags", (header.S, header.PN), (0, 0))
    if "no container" in name:
        equal("extension flag", header.E, 0)
    else:
        # Fields that are there because of another one are sent as zero.
        equal("sequence and N-PDU number", message["all"][8:11].hex(), "000000")
        container = packet[GTPPDUSessionContainer]
        equal("PDU type, downlink", container.type, 0)
        check(container.QFI in world["qfis"], f"QFI {container.QFI}")
        equal("length of the container", container.ExtHdrLen, 1)
        equal("next", container.NextExtHdr, 0)
        equal("extensions", [kind for kind, _ in message["extensions"]], [0x85])
    equal("what is inside", message["inside"].hex(), inside.hex())
    user = ip(inside)
    dscp = 0x68 if "DSCP is set" in name else traffic_class(user) & 0xfc
    equal("outer traffic class", traffic_class(packet), dscp | traffic_class(user) & 3)


def decapsulated(name, came, frame):
    message = gtpu(ip_of(came))
    congested = traffic_class(ip_of(came)) & 3 == 3
    user = ip(message["inside"])
    link(frame, world["pod_n6_mac"], world["n6_macs"], "into a VLAN" in name)
    equal("what left", raw(ip_of(frame)).hex(), one_hop(user, congested).hex())


def relayed(name, came, frame):
    before, after = gtpu(ip_of(came)), gtpu(ip_of(frame))
    link(frame, world["pod_n6_mac"], [world["router_mac"]], False)
    outer(ip_of(frame), world["peer"])
    equal("TEID", after["teid"], world["relayed_teid"])
    equal("flags, type and length", after["all"][:4].hex(), before["all"][:4].hex())
    equal("all behind the TEID", after["all"][8:].hex(), before["all"][8:].hex())
    marked = traffic_class(ip_of(came))
    equal("traffic class", traffic_class(ip_of(frame)), 0x68 | marked & 3 if "DSCP is set" in name else marked)


def turned(came, frame):
    """Back to the MAC that it came from, with the same tag."""
    equal("MACs", (frame[Ether].dst, frame[Ether].src), (came[Ether].src, came[Ether].dst))
    equal("tag", Dot1Q in frame, Dot1Q in came)


def signalling(came, frame):
    asked, answer = gtpu(ip_of(came)), ip_of(frame)
    turned(came, frame)
    header = answer[GTPHeader] if GTPHeader in answer else answer[GTP_U_Header]
    # TS 29.281 §5.1: S is 1 and the TEID 0 in all messages but G-PDU and End Marker.
    equal("flags", (header.version, header.PT, header.E, header.S, header.PN), (1, 1, 0, 1, 0))
    equal("TEID", header.teid, 0)
    # Fields that are there because of another one are sent as zero.
    equal("N-PDU number and next extension", gtpu(answer)["all"][10:12].hex(), "0000")
    equal("addresses", (answer.src, answer.dst), (ip_of(came).dst, ip_of(came).src))
    if asked["type"] == ECHO_REQUEST:
        outer(answer, world["gnb"], (2152, ip_of(came)[UDP].sport))
        equal("message", header.gtp_type, ECHO_RESPONSE)
        equal("sequence", gtpu(answer)["sequence"], asked["sequence"] or b"\0\0")
        elements = answer[GTPEchoResponse].IE_list
        equal("elements", [type(it) for it in elements], [IE_Recovery])
        equal("restart counter", elements[0].restart_counter, 0)
    else:
        outer(answer, world["gnb"])
        equal("message", header.gtp_type, ERROR_INDICATION)
        elements = answer[GTPErrorIndication].IE_list
        equal("elements", [type(it) for it in elements], [IE_TEIDI, IE_GSNAddress])
        equal("TEID Data I", elements[0].TEIDI, asked["teid"])
        address = raw(elements[1])[3:]
        equal("GTP-U Peer Address", ip_address(address), ip_address(ip_of(came).dst))


def icmp_error(name, about, packet):
    """From the pod to the source of a packet, which it quotes."""
    equal("destination", packet.dst, about.src)
    equal("TTL", ttl(packet), 64)
    equal("traffic class", traffic_class(packet), traffic_class(about) & 0xfc)
    expired = ttl(about) <= 1
    if packet.version == 4:
        kind = (packet[ICMP].type, packet[ICMP].code)
        equal("type and code", kind, (11, 0) if expired else (3, 4))
        mtu, quote = int.from_bytes(raw(packet[ICMP])[6:8], "big"), raw(packet[ICMP])[8:]
        equal("quote", quote.hex(), raw(about)[:28].hex())
    else:
        message = raw(packet.payload)
        equal("type and code", (message[0], message[1]), (3, 0) if expired else (2, 0))
        mtu, quote = int.from_bytes(message[4:8], "big"), message[8:]
        equal("quote", quote.hex(), raw(about)[:48].hex())
    if expired:
        equal("unused", mtu, 0)
    else:
        # A relay that makes an IPv6 header an IPv4 one takes packets that are longer by the difference.
        shorter = 20 if "from IPv6 to IPv4" in name else 0
        check(mtu - shorter in world["mtus"], f"MTU {mtu}")
        check(length(about) > mtu or is_gtpu(about), f"MTU {mtu} for a packet of {length(about)} bytes")


def answered(name, came, frame):
    packet = ip_of(came)
    if not is_gtpu(packet):
        turned(came, frame)
        answer = ip_of(frame)
        check(answer.src in world["pod_n6"], f"source {answer.src}")
        return icmp_error(name, ip(raw(packet)[:length(packet)]), answer)
    if is_gtpu(ip_of(frame)) and gtpu(ip_of(frame))["type"] == G_PDU:
        link(frame, world["pod_n3_mac"], [world["gnb_mac"]], False)
        inside = gtpu(ip_of(frame))["inside"]
        tunnelled(name, ip_of(frame), inside)
        check(ip(inside).src in world["pod_n6"], f"source {ip(inside).src}")
        return icmp_error(name, ip(gtpu(packet)["inside"]), ip(inside))
    if is_gtpu(ip_of(frame)):
        return signalling(came, frame)
    turned(came, frame)
    check(ip_of(frame).src in world["pod_n3"], f"source {ip_of(frame).src}")
    return icmp_error(name, packet, ip_of(frame))


def judge(case):
    came, left = bytes.fromhex(case["came"]), bytes.fromhex(case["left"])
    name, came, frame = case["name"], Ether(came), Ether(left)
    equal("lengths and checksums", computed(frame).hex(), left.hex())
    if case["kind"] == "answer":
        return answered(name, came, frame)
    if not is_gtpu(ip_of(came)) or ip_of(came).dst not in world["pod_n3"]:
        link(frame, world["pod_n3_mac"], [world["gnb_mac"]], "into a VLAN" in name)
        return tunnelled(name, ip_of(frame), one_hop(ip_of(came)))
    if is_gtpu(ip_of(frame)):
        return relayed(name, came, frame)
    return decapsulated(name, came, frame)


def main():
    global world
    task = json.load(sys.stdin)
    world = task["world"]
    wrong = {}
    for case in task["cases"]:
        try:
            judge(case)
        except Exception as error:
            wrong[case["name"]] = f"{type(error).__name__}: {error}"
    json.dump({"read": len(task["cases"]), "wrong": wrong}, sys.stdout)


main()
