"""Streams: a crawl in two stages, 50 pages being fetched and 4 being parsed at a time; and a search that ends with the first hit.

python examples/streams.py
"""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gatedcoro import amap

PAGES = 1_000


class Site(ThreadingHTTPServer):
    """A service on the loopback interface, in threads of its own. A page links to three others; all are reached from page 0."""

    request_queue_size = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.lock = threading.Lock()
        self.now = self.most = self.served = 0
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def server_close(self) -> None:
        self.shutdown()
        self.thread.join()
        super().server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that has gone away


class Page(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        site, number = self.server, int(self.path[1:])
        with site.lock:
            site.now += 1
            site.most = max(site.most, site.now)
        time.sleep(0.005)  # as if a database were behind it
        with site.lock:
            site.now -= 1
            site.served += 1
        links = "".join(f'<a href="/{link}">' for link in range(3 * number + 1, 3 * number + 4) if link < PAGES)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"<title>Page {number}</title>{links}".encode())

    def log_message(self, *arguments: object) -> None:
        pass


async def fetch(address: tuple[int, int]) -> tuple[int, str]:
    """A request without an HTTP client, so that the example needs none."""
    port, number = address
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /%d HTTP/1.0\r\n\r\n" % number)
        answer = await reader.read()
        return number, answer.decode()
    finally:
        writer.close()


def links_in(page: str) -> list[int]:
    return [int(link) for link in re.findall(r'<a href="/(\d+)">', page)]


async def parse(fetched: tuple[int, str]) -> tuple[int, list[int]]:
    number, page = fetched
    return number, await asyncio.to_thread(links_in, page)  # work for the processor


async def crawl(port: int) -> set[int]:
    """Links that are found are pages to be fetched, until there are no more."""
    ahead: asyncio.Queue[int] = asyncio.Queue()
    ahead.put_nowait(0)
    found, parsed = {0}, set()

    async def pages() -> AsyncIterator[tuple[int, int]]:
        while True:
            yield port, await ahead.get()

    fetched = amap(fetch, pages(), limit=50, ordered=False)
    async with amap(parse, fetched, limit=4, ordered=False) as results:
        async for number, links in results:
            parsed.add(number)
            for link in links:
                if link not in found:
                    found.add(link)
                    ahead.put_nowait(link)
            if len(parsed) == len(found):
                break  # which closes both streams, and pages()
    return parsed


async def first_with(port: int, text: str) -> int | None:
    """Leaving the block cancels the requests that are under way; none is made after that."""
    addresses = ((port, number) for number in range(PAGES))
    async with amap(fetch, addresses, limit=50, ordered=False) as results:
        async for number, page in results:
            if text in page:
                return number
    return None


with Site() as site:
    pages = asyncio.run(crawl(site.server_port))
    print(f"crawl: {len(pages)} pages of {PAGES}, at most {site.most} requests at a time")
    assert pages == set(range(PAGES)) and site.most <= 50

with Site() as site:
    hit = asyncio.run(first_with(site.server_port, "<title>Page 123</title>"))
    print(f"search: page {hit}, after {site.served} requests of {PAGES}")
    assert hit == 123 and site.served < PAGES / 2
