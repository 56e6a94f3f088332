"""What a client of `aiohttp` may expect of streams through the gateway, whose address is the argument."""

import asyncio
import sys

import aiohttp


async def pieces(sent):
    for _ in range(64):
        sent.append(1)
        yield b"x" * 65536


async def main(gateway):
    url = f"http://{gateway}/http"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        # The next event is sent once this one was heard of, so each must come by itself; also through `compress`.
        async with session.get(f"{url}/events", headers={"accept-encoding": "gzip, br, zstd"}) as answer:
            assert "content-encoding" not in answer.headers, answer.headers
            for number in range(5):
                line = await asyncio.wait_for(answer.content.readline(), 5)
                assert line == b"data: %d\n" % number, line
                await answer.content.readline()
                async with session.get(f"{url}/heard") as heard:
                    assert heard.status == 200

        async with session.ws_connect(f"{url}/echo", max_msg_size=0) as socket:
            await socket.send_bytes(b"y" * 1_000_000)
            assert (await socket.receive()).data == b"y" * 1_000_000
            await socket.close(code=4001)
        async with session.get(f"{url}/code") as answer:
            assert await answer.text() == "4001", await answer.text()

        async with session.post(f"{url}/upload", data=pieces([])) as answer:
            assert await answer.text() == f"{64 * 65536} chunked", await answer.text()
        async with session.post(f"{url}/upload", data=pieces([]), expect100=True) as answer:
            assert (await answer.text()).startswith(f"{64 * 65536} "), await answer.text()
        sent = []
        async with session.post(f"{url}/refuse", data=pieces(sent), expect100=True) as answer:
            assert answer.status == 417, answer.status
        assert not sent, f"{len(sent)} pieces of a body were sent that was refused"


asyncio.run(main(*sys.argv[1:]))
