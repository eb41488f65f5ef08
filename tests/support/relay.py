"""A relay between clients and a server on another port, which can hold everything back: those clients are cut off, and nobody is told.

    with Relay(server.address) as relay:
        client = Redis(port=relay.port)
        relay.hold()      # what is sent, either way, is kept, and the end of a connection, too; who connects is not answered
        relay.let_go()    # what was kept arrives
        relay.cut()       # the connections end that there are, on both sides or on one, of which the other is not told for some time

It ends a connection when either side does, and runs in a thread of its own.
"""

import asyncio
import threading


class Relay:
    def __init__(self, address):
        self.address = address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        self._do(self._begin())
        return self

    def __exit__(self, *exc_info):
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def hold(self):
        self._loop.call_soon_threadsafe(self._open.clear)

    def let_go(self):
        self._loop.call_soon_threadsafe(self._open.set)

    def cut(self, *sides, silence=0.0):
        """*sides*: "client", "server"; the other one ends by itself, or after so many seconds, as by keepalives of TCP."""
        self._loop.call_soon_threadsafe(self._cut_now, sides or ("client", "server"), silence)

    def _cut_now(self, sides, silence):
        for cut in self._cuts:
            if not cut.done():
                cut.set_result((sides, silence))

    def _do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _begin(self):
        self._open = asyncio.Event()
        self._open.set()
        self._connections = set()
        self._cuts = set()
        """Of each connection a Future: which sides are to end, and the seconds until the other does."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self):
        self._server.close()
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connected(self, reader, writer):
        task = asyncio.current_task()
        self._connections.add(task)
        writers = [writer]
        try:
            await self._open.wait()
            server_reader, server_writer = await asyncio.open_connection(*self.address)
            writers.append(server_writer)
            ways = [
                asyncio.ensure_future(self._pass_on(reader, server_writer)),
                asyncio.ensure_future(self._pass_on(server_reader, writer)),
            ]
            cut = asyncio.get_running_loop().create_future()
            self._cuts.add(cut)
            try:
                await asyncio.wait([*ways, cut], return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._cuts.discard(cut)
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
            if cut.done():
                sides = {"client": (reader, writer), "server": (server_reader, server_writer)}
                ends, silence = cut.result()
                for side in ends:
                    sides.pop(side)[1].transport.abort()
                async with asyncio.timeout(silence):
                    for other, _ in sides.values():
                        while await other.read(1 << 16):
                            pass
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            for each in writers:
                each.close()

    async def _pass_on(self, reader, writer):
        while True:
            try:
                data = await reader.read(1 << 16)
            except OSError:  # the connection has ended
                data = b""
            await self._open.wait()
            if not data:
                return
            writer.write(data)
            await writer.drain()
