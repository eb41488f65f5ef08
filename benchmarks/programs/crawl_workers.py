"""The title of every page of a site: workers over an `asyncio.Queue`, as the documentation of asyncio.Queue has it.

python -m benchmarks.programs.crawl_workers URL
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
    queue: asyncio.Queue[str] = asyncio.Queue()
    queue.put_nowait(start)

    async def worker() -> None:
        while True:
            url = await queue.get()
            try:
                async with session.get(url) as response:
                    response.raise_for_status()
                    html = await response.text()
                titles[url] = re.findall("<title>(.*?)</title>", html)[0]
                for href in re.findall('<a href="(.*?)"', html):
                    link = urljoin(url, href)
                    if link not in seen:
                        seen.add(link)
                        queue.put_nowait(link)
            finally:
                queue.task_done()

    workers = [asyncio.create_task(worker()) for _ in range(AT_ONCE)]
    await queue.join()
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    return titles


async def main(start: str) -> dict[str, str]:
    async with aiohttp.ClientSession() as session:
        return await crawl(session, start)


if __name__ == "__main__":
    print(len(asyncio.run(main(sys.argv[1]))), "pages")
