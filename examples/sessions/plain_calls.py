"""Programs sessions with plain gRPC calls: those of a JSON file on stdin, and no others. Made messages: `protoc
--python_out=. -I proto/netplane/v1 sessions.proto`. Arguments: socket, pod (empty: that of the caller), generation."""

import json
import sys

import grpc
from google.protobuf.json_format import ParseDict

import sessions_pb2 as v1

socket, pod, generation = sys.argv[1], sys.argv[2], int(sys.argv[3])
channel = grpc.insecure_channel(f"unix:{socket}")


def method(kind, name):
    request, answer = getattr(v1, f"{name}Request"), getattr(v1, f"{name}Response")
    return getattr(channel, kind)(f"/netplane.v1.Sessions/{name}", request.SerializeToString, answer.FromString)


print(method("unary_unary", "Describe")(v1.DescribeRequest(pod=pod)))
changes = [{"put": session} for session in json.load(sys.stdin)] + [{"sweep": {}}]
wanted = ParseDict({"pod": pod, "generation": generation, "changes": changes}, v1.ApplyRequest())
for answer in method("stream_stream", "Apply")(iter([wanted])):
    for change, result in zip(wanted.changes, answer.results):
        teids = [hex(it.local_f_teid.teid) for it in result.created_pdrs]
        print(change.put.id or "sweep", result.code, result.message, result.removed, *teids)
for answer in method("unary_stream", "List")(v1.ListRequest(pod=pod)):
    for it in answer.sessions:
        print(it.session.id, v1.State.Name(it.state), it.uplink.packets, it.downlink.packets)
