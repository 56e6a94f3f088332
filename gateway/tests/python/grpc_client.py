"""Calls what grpc_server.py serves, at the address that is given, in every way there is. Fails where one goes astray."""

import queue
import sys
import threading

import grpc

channel = grpc.insecure_channel(sys.argv[1])
unary = channel.unary_unary("/test.Echo/Unary")
join = channel.stream_unary("/test.Echo/Join")
split = channel.unary_stream("/test.Echo/Split")
chat = channel.stream_stream("/test.Echo/Chat")
hang = channel.unary_stream("/test.Echo/Hang")
never = channel.unary_unary("/test.Echo/Never")
WAIT = 10


def expect(what, found, wanted):
    assert found == wanted, f"{what}: {found!r} instead of {wanted!r}"
    print(f"{what}: ok")


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it should have failed")


# Unary, with metadata before and after the answer.
answer, call = unary.with_call(b"hello", metadata=(("x-sent", "yes"),), timeout=WAIT)
expect("a unary call", answer, b"hello")
expect("initial metadata", dict(call.initial_metadata())["x-initial"], "yes")
expect("trailing metadata", dict(call.trailing_metadata())["x-trailing"], "2")
large = bytes(3 << 20)
expect("a large message", unary(large, timeout=WAIT), large)

# A failure with everything that belongs to it.
error = failure(lambda: unary(b"fail", timeout=WAIT))
expect("a failure's code", error.code(), grpc.StatusCode.FAILED_PRECONDITION)
expect("a failure's message", error.details(), "not now: 100 %")
expect("a failure's metadata", dict(error.trailing_metadata())["x-details-bin"], b"\x00\xff")

# Streams.
expect("a client's stream", join(iter([b"one", b"two", b"three"]), timeout=WAIT), b"onetwothree")
expect("an empty stream", join(iter([]), timeout=WAIT), b"")
expect("a server's stream", b"".join(split(b"abcdef", timeout=WAIT)), b"abcdef")
words = queue.Queue()
answers = chat(iter(words.get, None), timeout=WAIT)
for word in (b"one", b"two", b"three"):
    words.put(word)
    expect("an answer in a conversation", next(answers), word)
words.put(None)
expect("the end of a conversation", list(answers), [])
expect("its status", answers.code(), grpc.StatusCode.OK)

# Many at once, over one connection.
results = []
threads = [threading.Thread(target=lambda: results.append(unary(b"x" * 1000, timeout=WAIT))) for _ in range(32)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
expect("calls at once", results, [b"x" * 1000] * 32)

# Cancelled in the middle, and heard of by the server.
answers = hang(b"first", timeout=WAIT)
expect("the first of a stream", next(answers), b"first")
answers.cancel()
expect("a cancelled call", failure(lambda: next(answers)).code(), grpc.StatusCode.CANCELLED)
expect("whether the server heard of it", unary(b"was it cancelled?", timeout=WAIT), b"yes")

# A deadline, and a method that there is not.
expect("a deadline", failure(lambda: never(b"", timeout=0.3)).code(), grpc.StatusCode.DEADLINE_EXCEEDED)
missing = channel.unary_unary("/test.Echo/Missing")
expect("a missing method", failure(lambda: missing(b"", timeout=WAIT)).code(), grpc.StatusCode.UNIMPLEMENTED)
channel.close()
print("all calls went as they should")
