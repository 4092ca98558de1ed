"""The reference of the CPU benchmark: a bare aiohttp loop that reads the answers and does nothing with them.

python tests/benchmarks/bare_client.py URL CONCURRENT REQUESTS
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Sequence

import aiohttp

REQUEST = {
    "model": "truth",
    "messages": [{"role": "user", "content": "What is it?"}],
    "temperature": 0,
    "max_tokens": 512,
    "stream": True,
    "stream_options": {"include_usage": True},
}


async def load(url: str, concurrent: int, requests: int) -> dict[str, float]:
    """Ask, read, throw away; return what it cost."""
    body, reads = json.dumps(REQUEST).encode(), 0
    semaphore = asyncio.Semaphore(concurrent)
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrent), headers=headers
    ) as session:

        async def one() -> None:
            nonlocal reads
            async with semaphore, session.post(url, data=body) as response:
                async for _ in response.content.iter_any():
                    reads += 1

        gc.collect()
        gc.freeze()
        gc.disable()  # as the program does it
        start, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*[one() for _ in range(requests)])
        cost = {
            "cpu_s": time.process_time() - cpu,
            "wall_s": time.perf_counter() - start,
            "reads": reads,
        }
        gc.enable()
    return cost


def main(argv: Sequence[str] | None = None) -> int:
    """Run the load and print its cost as JSON."""
    url, concurrent, requests = sys.argv[1:] if argv is None else argv
    print(json.dumps(asyncio.run(load(url, int(concurrent), int(requests)))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
