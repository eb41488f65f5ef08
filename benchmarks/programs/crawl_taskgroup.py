"""The title of every page of a site: an `asyncio.TaskGroup`, and an `asyncio.Semaphore` around each request.

python -m benchmarks.programs.crawl_taskgroup URL
"""

import asyncio
import re
import sys
from urllib.parse import urljoin

import aiohttp

AT_ONCE = 20


async def crawl(session: aiohttp.ClientSession, start: str) -> dict[str, str]:
    titles: dict[str, str] = {}
    seen = {start}
    gate = asyncio.Semaphore(AT_ONCE)

    async def visit(url: str) -> None:
        async with gate:
            async with session.get(url) as response:
                response.raise_for_status()
                html = await response.text()
        titles[url] = re.findall("<title>(.*?)</title>", html)[0]
        for href in re.findall('<a href="(.*?)"', html):
            link = urljoin(url, href)
            if link not in seen:
                seen.add(link)
                group.create_task(visit(link))

    async with asyncio.TaskGroup() as group:
        group.create_task(visit(start))
    return titles


async def main(start: str) -> dict[str, str]:
    async with aiohttp.ClientSession() as session:
        return await crawl(session, start)


if __name__ == "__main__":
    print(len(asyncio.run(main(sys.argv[1]))), "pages")
