"""A model's answer to every prompt of a file: `amap`, with aiolimiter around each request.

python -m benchmarks.programs.llm_gatedcoro URL PROMPTS.jsonl ANSWERS.jsonl
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx
from aiolimiter import AsyncLimiter

from gatedcoro import amap

AT_ONCE = 50
PER_SECOND = 400


async def ask_all(client: httpx.AsyncClient, prompts: Path, answers: Path) -> None:
    rate = AsyncLimiter(PER_SECOND, 1)

    async def ask(prompt: dict[str, Any]) -> None:
        async with rate:
            message = {"role": "user", "content": prompt["text"]}
            response = await client.post("/chat/completions", json={"model": "small", "messages": [message]})
        response.raise_for_status()
        answer = response.json()["choices"][0]["message"]["content"]
        print(json.dumps({"id": prompt["id"], "answer": answer}), file=output, flush=True)

    with prompts.open() as lines, answers.open("w") as output:
        await amap(ask, map(json.loads, lines), limit=AT_ONCE)


async def main(url: str, prompts: Path, answers: Path) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await ask_all(client, prompts, answers)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
