"""A WebSocket server of `websockets`, and a server of `aiohttp`. Prints their addresses, and runs until it is killed."""

import asyncio
import contextlib

import aiohttp.web as web
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

# What clients said when they closed.
codes = []


async def chat(socket):
    if socket.request.path == "/bye":
        await socket.close(4321, "the server's own reason")
        return
    with contextlib.suppress(ConnectionClosed):
        async for message in socket:
            await socket.send(message)


async def events(request):
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    # The next event comes when the client has acted on the one before, so that nobody can collect them.
    for number in range(5):
        await answer.write(b"data: %d\n\n" % number)
        await heard.get()
    return answer


async def hear(request):
    heard.put_nowait(None)
    return web.Response(text="heard")


async def echo(request):
    socket = web.WebSocketResponse(max_msg_size=0)
    await socket.prepare(request)
    async for message in socket:
        await socket.send_bytes(message.data)
    codes.append(socket.close_code)
    return socket


async def code(request):
    return web.Response(text=str(codes.pop()))


async def upload(request):
    length = 0
    async for piece in request.content.iter_any():
        length += len(piece)
    return web.Response(text=f"{length} {request.headers.get('transfer-encoding')}")


async def refuse(request):
    return web.Response(status=401)


async def picky(request):
    # Without a word of `100 Continue`.
    return web.Response(status=417)




async def main():
    global heard
    heard = asyncio.Queue()
    app = web.Application(client_max_size=1 << 40)
    app.router.add_get("/events", events)
    app.router.add_get("/heard", hear)
    app.router.add_get("/echo", echo)
    app.router.add_get("/code", code)
    app.router.add_post("/upload", upload)
    app.router.add_post("/refuse", refuse, expect_handler=picky)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    http = site._server.sockets[0].getsockname()[1]
    async with serve(chat, "127.0.0.1", 0, subprotocols=["chat.v2", "chat.v1"], max_size=None, ping_interval=None) as server:
        ws = server.sockets[0].getsockname()[1]
        print(f"127.0.0.1:{ws} 127.0.0.1:{http}", flush=True)
        await asyncio.Future()


asyncio.run(main())
