"""What a client of `websockets` may expect of a WebSocket through the gateway, whose address is the argument."""

import asyncio
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus


async def main(gateway):
    url = f"ws://{gateway}"
    async with connect(f"{url}/chat", subprotocols=["chat.v1"], max_size=None, ping_interval=None) as socket:
        assert socket.subprotocol == "chat.v1", socket.subprotocol
        large = os.urandom(16 << 20)
        await socket.send(large)
        assert await socket.recv() == large, "16 MiB came back changed"
        await asyncio.wait_for(await socket.ping(), 5)
        for number in range(1000):
            await socket.send(f"message {number}")
            assert await socket.recv() == f"message {number}"
        many = [os.urandom(number % 300) for number in range(1000)]
        for message in many:
            await socket.send(message)
        assert [await socket.recv() for _ in many] == many
        await socket.close(4123, "the client's own reason")
        assert (socket.close_code, socket.close_reason) == (4123, "the client's own reason"), socket.close_code

    async with connect(f"{url}/bye", subprotocols=["chat.v2"]) as socket:
        try:
            await socket.recv()
            raise AssertionError("it said something")
        except ConnectionClosedError as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4321, "the server's own reason"), closed

    try:
        await connect(f"{url}/closed/chat")
        raise AssertionError("a guard let it pass")
    except InvalidStatus as refused:
        assert refused.response.status_code == 403, refused


asyncio.run(main(*sys.argv[1:]))
