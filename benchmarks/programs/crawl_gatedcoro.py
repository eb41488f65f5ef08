"""The title of every page of a site: `amap`, over a generator that is fed by the pages.

python -m benchmarks.programs.crawl_gatedcoro URL
"""

import asyncio
import re
import sys
from collections import deque
from collections.abc import Iterator
from urllib.parse import urljoin

import aiohttp

from gatedcoro import amap

AT_ONCE = 20


async def crawl(session: aiohttp.ClientSession, start: str) -> dict[str, str]:
    titles: dict[str, str] = {}
    seen = {start}
    ahead = deque([start])

    async def visit(url: str) -> None:
        async with session.get(url) as response:
            response.raise_for_status()
            html = await response.text()
        titles[url] = re.findall("<title>(.*?)</title>", html)[0]
        for href in re.findall('<a href="(.*?)"', html):
            link = urljoin(url, href)
            if link not in seen:
                seen.add(link)
                ahead.append(link)

    def urls() -> Iterator[str]:
        while ahead:
            yield ahead.popleft()

    while ahead:  # once more, if a page has links and nothing was ahead when a slot was free
        await amap(visit, urls(), limit=AT_ONCE)
    return titles


async def main(start: str) -> dict[str, str]:
    async with aiohttp.ClientSession() as session:
        return await crawl(session, start)


if __name__ == "__main__":
    print(len(asyncio.run(main(sys.argv[1]))), "pages")
