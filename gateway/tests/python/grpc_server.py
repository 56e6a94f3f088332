"""A service of gRPC with a method of each kind, on a free port; says where in its first line. Messages are bytes."""

import threading
import time
from concurrent import futures

import grpc

cancelled = threading.Event()


def unary(request, context):
    if request == b"fail":
        context.set_trailing_metadata((("x-trailing", "1"), ("x-details-bin", b"\x00\xff")))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 100 %")
    if request == b"was it cancelled?":
        return b"yes" if cancelled.wait(5) else b"no"
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-initial", metadata.get("x-sent", "nothing")),))
    context.set_trailing_metadata((("x-trailing", "2"),))
    return request


def join(requests, context):
    return b"".join(requests)


def split(request, context):
    for byte in request:
        yield bytes([byte])


def chat(requests, context):
    yield from requests


def hang(request, context):
    context.add_callback(cancelled.set)
    yield request
    while context.is_active():
        time.sleep(0.01)


def never(request, context):
    while context.is_active():
        time.sleep(0.01)
    return b""


handler = grpc.method_handlers_generic_handler(
    "test.Echo",
    {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Join": grpc.stream_unary_rpc_method_handler(join),
        "Split": grpc.unary_stream_rpc_method_handler(split),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Hang": grpc.unary_stream_rpc_method_handler(hang),
        "Never": grpc.unary_unary_rpc_method_handler(never),
    },
)
server = grpc.server(futures.ThreadPoolExecutor(16), handlers=(handler,))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(f"127.0.0.1:{port}", flush=True)
server.wait_for_termination()
