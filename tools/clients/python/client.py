"""A client of the Curator on gRPC's C core: MODE ADDRESS DESCRIPTORS [CA CERTIFICATE KEY NAME].

What it does in each mode, and what it says, is the same for each client here: see curator-service/tests/integration/tls/clients.rs.
"""

import sys
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

LIMIT = 20


def main(mode, address, descriptors, *secrets):
    files = descriptor_pb2.FileDescriptorSet()
    with open(descriptors, "rb") as file:
        files.ParseFromString(file.read())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    client = Client(pool, open_channel(address, *secrets))
    {"calls": calls, "plain": plain, "watch": watch}[mode](client)


def open_channel(address, ca=None, certificate=None, key=None, name=None):
    # Back soon after the instance that it was connected to.
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
    if ca is None:
        return grpc.insecure_channel(address, options)

    def read(path):
        with open(path, "rb") as file:
            return file.read()

    credentials = grpc.ssl_channel_credentials(read(ca), read(key), read(certificate))
    options.append(("grpc.ssl_target_name_override", name))
    return grpc.secure_channel(address, credentials, options)


class Client:
    def __init__(self, pool, channel):
        self.pool = pool
        self.channel = channel

    def method(self, service, name):
        method = self.pool.FindServiceByName(service).FindMethodByName(name)
        request, response = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
        kind = ("stream" if method.client_streaming else "unary") + "_" + ("stream" if method.server_streaming else "unary")
        call = getattr(self.channel, kind)(
            f"/{service}/{name}", request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        return request, call


MANAGEMENT = "metropolis.proto.api.Management"
CURATOR = "metropolis.node.core.curator.proto.api.Curator"
LOCAL = "metropolis.node.core.curator.proto.api.CuratorLocal"


def say(*words):
    print(*words, flush=True)


def code(call):
    """The number of the status that a call ends with."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code().value[0]
    return 0


def calls(client):
    request, info = client.method(MANAGEMENT, "GetClusterInfo")
    say("cluster-info", len(info(request(), timeout=LIMIT, wait_for_ready=True).cluster_directory.nodes))
    request, nodes = client.method(MANAGEMENT, "GetNodes")
    found = list(nodes(request(filter="has(node.roles.consensus_member)"), timeout=LIMIT))
    say("nodes", len(found))
    request, ticket = client.method(MANAGEMENT, "GetRegisterTicket")
    say("ticket", len(ticket(request(), timeout=LIMIT).ticket))
    request, label = client.method(MANAGEMENT, "UpdateNodeLabels")
    change = request(id=found[0].id)
    change.upsert.add(key="client", value="python")
    label(change, timeout=LIMIT)
    say("labelled", found[0].id)
    request, beat = client.method(CURATOR, "Heartbeat")
    say("heartbeat", code(lambda: list(beat(iter([request()]), timeout=LIMIT))))


def plain(client):
    request, leader = client.method(LOCAL, "GetCurrentLeader")
    say("leader", next(leader(request(), timeout=LIMIT, wait_for_ready=True)).leader_node_id)
    request, info = client.method(MANAGEMENT, "GetClusterInfo")
    say("refused", code(lambda: info(request(), timeout=LIMIT)))


def watch(client):
    request, events = client.method(CURATOR, "Watch")
    wanted = request()
    wanted.nodes_in_cluster.SetInParent()
    while True:
        try:
            for event in events(wanted):
                for node in event.nodes:
                    for pair in node.labels.pairs:
                        if pair.key == "seen":
                            say("seen", pair.value)
                if event.progress == 1:
                    say("watching")
            say("lost 0")
        except grpc.RpcError as error:
            say("lost", error.code().value[0])
        time.sleep(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
