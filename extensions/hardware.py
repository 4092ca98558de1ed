"""What the machine and the server are, and what they did under load.

    watch = hardware.Watch(config)
    await watch.prepare(target, wait=False, say=print)   # the lock, the sampler's process
    await watch.start()                                  # the fingerprint, the idle machine
    watch.begin(start_ns, record)                        # rows of samples go to `record`
    ...                                                  # the load
    await watch.stop()
    watch.finish(rows)                                   # -> watch.samples
    aggregate = st.calculate_aggregates(results, config, energy=watch.energy)
    meta["hardware"] = watch.facts(aggregate)

What is read during the load is read by a process of its own, which runs sampler.py. A value that
was not measured is None, and `missing` says why. What the core's verdict makes of it stands at the
end, as validity rules.

The order of this file: the server's fingerprint, the lock that finds other runs, the watch around
a load; then what is computed from the samples: columns, energy, heat and room, validity.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import ipaddress
import itertools
import json
import math
import os
import re
import socket
import stat
import sys
import tempfile
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import aiohttp

import llm_stresstest as st
from extensions.sampler import COUNTERS, Sampler, as_number, look_up

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NS_PER_MS = 1_000_000


# === The server's fingerprint ===

PROBE_S = 2.0  # for one answer
ANSWER_BYTES = 1 << 18
KEPT_BYTES = 1 << 14  # of one raw answer
COMMON_FACTS = (
    "engine", "version", "model", "model_file", "quantization", "parameters", "context_tokens",
    "slots", "vram_share",
)  # fmt: skip
# Keys whose values are nobody's business: SGLang's server_info has the API key in it.
SECRET_KEY = re.compile(
    r"(?i)(api[_-]?key|secret|passw|credential|authoriz|(access|auth|hf|bearer)[_-]?token)"
)
Facts = dict[str, Any]


class Engine(NamedTuple):
    """How a server is recognised and read: by paths beside its /v1, with GET unless POST is said.

    `read` gets the answers by path (None for what was no JSON) and the model's name; it returns
    the common facts, or None when this is another server.
    """

    name: str
    hint: str  # in the `owned_by` of its models, or in its `Server` header
    paths: tuple[str, ...]  # the first one recognises it, the others are asked only then
    read: Callable[[Mapping[str, Any], str], Facts | None]


def read_llama_cpp(answers: Mapping[str, Any], model: str) -> Facts | None:
    """Read llama.cpp's server: /props, /health and the `meta` of /v1/models."""
    props = answers.get("/props")
    if look_up(props, "default_generation_settings") is None:
        return None
    entry = model_entry(answers, model)
    return {
        "version": look_up(props, "build_info"),
        "model": look_up(props, "model_alias"),
        "model_file": look_up(props, "model_path"),
        "quantization": look_up(props, "model_ftype") or look_up(entry, "meta.ftype"),
        "parameters": look_up(entry, "meta.n_params"),
        "context_tokens": look_up(props, "default_generation_settings.n_ctx"),
        "slots": look_up(props, "total_slots"),
    }


def read_ollama(answers: Mapping[str, Any], model: str) -> Facts | None:
    """Read Ollama: /api/version, /api/show, /api/ps. What is not in VRAM has spilled."""
    if look_up(answers.get("/api/version"), "version") is None:
        return None
    show = answers.get("POST /api/show")
    running = look_up(answers.get("/api/ps"), "models")
    entries = running if isinstance(running, list) else []
    names = (model, f"{model}:latest")
    loaded = next((entry for entry in entries if look_up(entry, "model") in names), None)
    size, in_vram = (as_number(look_up(loaded, name)) for name in ("size", "size_vram"))
    count = look_up(show, "model_info.general.parameter_count")  # a key with points in it
    return {
        "version": look_up(answers["/api/version"], "version"),
        "model": look_up(loaded, "model"),
        "quantization": look_up(show, "details.quantization_level"),
        "parameters": count or counted(look_up(show, "details.parameter_size")),
        "context_tokens": look_up(loaded, "context_length"),
        "vram_share": round(in_vram / size, 4) if size and in_vram is not None else None,
    }


def read_vllm(answers: Mapping[str, Any], model: str) -> Facts | None:
    """Read vLLM: /version; /server_info is there in its development mode only."""
    entry = model_entry(answers, model)
    if look_up(answers.get("/version"), "version") is None:
        return None
    config = look_up(answers.get("/server_info?config_format=json"), "vllm_config")
    quantization = look_up(config, "model_config.quantization")
    if isinstance(config, str):  # before version 0.11 a text
        found = re.search(r"\bquantization=(?:'?)([\w.-]+)", config)
        quantization = None if found is None or found.group(1) == "None" else found.group(1)
    return {
        "version": look_up(answers["/version"], "version"),
        "model": look_up(entry, "id"),
        "model_file": look_up(config, "model_config.model") or look_up(entry, "root"),
        "quantization": quantization,
        "context_tokens": look_up(entry, "max_model_len"),
        "slots": look_up(config, "scheduler_config.max_num_seqs"),
    }


def read_sglang(answers: Mapping[str, Any], model: str, get: str = "") -> Facts | None:
    """Read SGLang: /model_info and /server_info, in older versions with `get_` before the names."""
    info, server = answers.get(f"/{get}model_info"), answers.get(f"/{get}server_info")
    if look_up(info, "is_generation") is None:
        return None
    entry = model_entry(answers, model)
    return {
        "version": look_up(server, "version"),
        "model": look_up(server, "served_model_name") or look_up(entry, "id"),
        "model_file": look_up(info, "model_path"),
        "quantization": look_up(server, "quantization"),
        "context_tokens": look_up(server, "context_length") or look_up(entry, "max_model_len"),
        "slots": look_up(server, "max_running_requests"),
    }


def read_tgi(answers: Mapping[str, Any], _model: str) -> Facts | None:
    """Read text-generation-inference: /info."""
    info = answers.get("/info")
    if look_up(info, "max_total_tokens") is None:
        return None
    return {
        "version": look_up(info, "version"),
        "model": look_up(info, "model_id"),
        "context_tokens": look_up(info, "max_total_tokens"),
        "slots": look_up(info, "max_concurrent_requests"),
    }


def read_lm_studio(answers: Mapping[str, Any], model: str) -> Facts | None:
    """Read LM Studio: /api/v0/models."""
    entries = look_up(answers.get("/api/v0/models"), "data")
    entry = named_entry(entries, model)
    if look_up(entry, "compatibility_type") is None:
        return None
    loaded = look_up(entry, "loaded_context_length")
    return {
        "model": look_up(entry, "id"),
        "quantization": look_up(entry, "quantization"),
        "context_tokens": loaded,
    }


def read_tabby_api(answers: Mapping[str, Any], _model: str) -> Facts | None:
    """Read TabbyAPI: /v1/model, the card of the model that is loaded."""
    card = answers.get("/v1/model")
    if look_up(card, "parameters.max_seq_len") is None:
        return None
    return {
        "model": look_up(card, "id"),
        "context_tokens": look_up(card, "parameters.max_seq_len"),
        "slots": look_up(card, "parameters.max_batch_size"),
    }


def read_koboldcpp(answers: Mapping[str, Any], _model: str) -> Facts | None:
    """Read KoboldCpp: /api/extra/version, /api/v1/model, /api/extra/true_max_context_length."""
    version = answers.get("/api/extra/version")
    if look_up(version, "result") != "KoboldCpp":
        return None
    name = str(look_up(answers.get("/api/v1/model"), "result") or "")
    return {
        "version": look_up(version, "version"),
        "model": name or None,
        "model_file": name.removeprefix("koboldcpp/") or None,
        "context_tokens": look_up(answers.get("/api/extra/true_max_context_length"), "value"),
    }


def read_litellm(answers: Mapping[str, Any], model: str) -> Facts | None:
    """Read LiteLLM's proxy: /health/readiness, /model/info. It names what stands behind it."""
    ready = answers.get("/health/readiness")
    newer = look_up(ready, "status") == "healthy" and "db" in cast(Facts, ready)
    if look_up(ready, "litellm_version") is None and not newer:
        return None
    entries = look_up(answers.get("/model/info"), "data")
    entry = named_entry(entries, model, "model_name")
    return {
        "version": look_up(ready, "litellm_version"),
        "model": look_up(entry, "litellm_params.model"),
        "context_tokens": look_up(entry, "model_info.max_input_tokens"),
    }


# In this order, as some answer like another one too: KoboldCpp like llama.cpp and Ollama.
ENGINES = (
    Engine(
        "KoboldCpp",
        "koboldcpp",
        ("/api/extra/version", "/api/v1/model", "/api/extra/true_max_context_length"),
        read_koboldcpp,
    ),
    Engine("TabbyAPI", "tabbyapi", ("/v1/model",), read_tabby_api),
    Engine("LM Studio", "organization_owner", ("/api/v0/models",), read_lm_studio),
    Engine("llama.cpp", "llama", ("/props", "/health"), read_llama_cpp),
    Engine("Ollama", "library", ("/api/version", "POST /api/show", "/api/ps"), read_ollama),
    Engine("SGLang", "sglang", ("/model_info", "/server_info"), read_sglang),
    Engine(
        "SGLang",
        "sglang",
        ("/get_model_info", "/get_server_info"),
        functools.partial(read_sglang, get="get_"),
    ),
    Engine("TGI", "text-generation", ("/info",), read_tgi),
    Engine("LiteLLM", "litellm", ("/health/readiness", "/model/info"), read_litellm),
    Engine("vLLM", "vllm", ("/version", "/server_info?config_format=json"), read_vllm),
)


def model_entry(answers: Mapping[str, Any], model: str) -> Any:
    """Return what /v1/models says of the model."""
    return named_entry(look_up(answers.get("/v1/models"), "data"), model)


def named_entry(entries: Any, model: str, key: str = "id") -> Any:
    """Return the entry of a list that has the model's name, or the only one."""
    if not isinstance(entries, list):
        return None
    names = (model, f"{model}:latest")
    return next(
        (e for e in entries if look_up(e, key) in names), entries[0] if len(entries) == 1 else None
    )


def counted(text: Any) -> int | None:
    """Return how many "7.6B" or "135M" are."""
    found = re.fullmatch(r"\s*([\d.]{1,10})\s*([KMBT])\s*", str(text), re.IGNORECASE)
    number = as_number(found.group(1)) if found else None
    if found is None or number is None:
        return None
    return round(number * {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[found.group(2).upper()])


def common_facts(facts: Facts, engine: str | None) -> Facts:
    """Return the common names with values of the right kind, None for what is not known.

    A quantization that only a GGUF file's name tells is taken from there.
    """
    file = facts.get("model_file")
    if isinstance(file, str):
        path = re.match(r"[/~.]|[A-Za-z]:", file) or file.endswith((".gguf", ".bin"))
        facts["model_file"] = re.split(r"[/\\]", file.rstrip("/"))[-1] if path else file
        told = re.search(r"(?i)[.-]((?:UD-)?I?Q\d\w*|BF16|F16|F32|MXFP4)\.gguf$", file)
        if facts.get("quantization") is None and told:
            facts["quantization"] = told.group(1).upper()
    common = dict.fromkeys(COMMON_FACTS)
    for name in ("version", "model", "model_file", "quantization"):
        value = facts.get(name)
        common[name] = value[:200] if isinstance(value, str) and value else None
    for name in ("parameters", "context_tokens", "slots"):
        number = as_number(facts.get(name))
        common[name] = int(number) if number is not None and number > 0 else None
    return {**common, "engine": engine, "vram_share": facts.get("vram_share")}


def pruned(value: Any, depth: int = 0) -> Any:
    """Return JSON data with its secrets masked and its long texts and lists cut."""
    if isinstance(value, dict) and depth < 6:
        masked = ((str(key)[:200], item) for key, item in list(value.items())[:300])
        return {
            key: st.REDACTED if item and SECRET_KEY.search(key) else pruned(item, depth + 1)
            for key, item in masked
        }
    if isinstance(value, list) and depth < 6:
        return [pruned(item, depth + 1) for item in value[:20]]
    if isinstance(value, str):
        hidden = re.sub(SECRET_KEY.pattern + r"(['\"]?\s*[:=]\s*)['\"]?[^\s,'\")]+", r"\1=…", value)
        return hidden if len(hidden) <= 500 else hidden[:499] + "…"
    return None if isinstance(value, dict | list) else value


class Fingerprint:
    """Asks a server what it is: same origin and headers, short timeouts, nothing twice."""

    def __init__(self, target: st.Target, model: str) -> None:
        self._target, self._model = target, model
        self._root = re.sub(r"/v1$", "", target.base)
        self._answers: dict[str, Any] = {}
        self._asked: dict[str, int | str] = {}  # the status, or why there is none
        self._server: str | None = None

    async def take(self) -> dict[str, Any]:
        """Return the common facts, the raw answers, and what was asked with its status."""
        # The measured path's session times and pools; this one is closed before the load.
        async with aiohttp.ClientSession(
            headers={**self._target.headers, "Accept": "application/json"},
            connector=aiohttp.TCPConnector(ssl=self._target.tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=PROBE_S),
            auto_decompress=False,
            trust_env=False,
        ) as session:
            await self._ask(session, "/v1/models")
            entry = model_entry(self._answers, self._model)
            owner = f"{look_up(entry, 'owned_by')} {self._server}".lower()
            hinted = [engine for engine in ENGINES if engine.hint in owner]
            for engines in filter(None, (hinted, ENGINES)):
                found = await self._recognise(session, engines)
                if found is not None:
                    break
        facts = {"model": look_up(entry, "id"), "context_tokens": context_of(entry)}
        if found is not None:
            told = found.read(self._answers, self._model) or {}
            facts |= {name: value for name, value in told.items() if value is not None}
        common = common_facts(facts, found.name if found else None)
        return {
            **self._target.redact.tree(common),
            "server_header": self._server and self._target.redact(self._server[:200]),
            "asked": self._asked,
            "raw": self._kept(),
        }

    async def _recognise(
        self, session: aiohttp.ClientSession, engines: Iterable[Engine]
    ) -> Engine | None:
        """Return the first engine that its answers show, and ask it the rest."""
        engines = tuple(engines)
        await asyncio.gather(*(self._ask(session, engine.paths[0]) for engine in engines))
        for engine in engines:
            if engine.read(self._answers, self._model) is not None:
                await asyncio.gather(*(self._ask(session, path) for path in engine.paths[1:]))
                return engine
        return None

    async def _ask(self, session: aiohttp.ClientSession, path: str) -> None:
        """Ask one path, once; what fails is only noted."""
        if path in self._asked:
            return
        method, _, place = path.rpartition(" ")
        body = {"model": self._model} if method else None
        url = self._root + place if place != "/v1/models" else self._target.base + "/models"
        self._asked[path] = "asked"
        try:
            async with session.request(
                method or "GET", url, json=body, allow_redirects=False, proxy=self._target.proxy
            ) as response:
                self._server = self._server or response.headers.get("Server")
                self._asked[path] = response.status
                if response.status == 200:
                    data = await response.content.read(ANSWER_BYTES + 1)
                    while len(data) <= ANSWER_BYTES and (more := await response.content.readany()):
                        data += more
                    if len(data) > ANSWER_BYTES:
                        raise ValueError("too long")
                    self._answers[path] = json.loads(data)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError) as error:
            self._asked[path] = type(error).__name__
            st.logger.debug("fingerprint: %s: %s", path, st.printable(error, 200))

    def _kept(self) -> dict[str, Any]:
        """Return the raw answers as the results may hold them."""
        kept = {}
        for path, answer in self._answers.items():
            shown = self._target.redact.tree(pruned(answer))
            size = len(json.dumps(shown))
            kept[path] = shown if size <= KEPT_BYTES else f"left out: {size} bytes"
        return kept


def context_of(entry: Any) -> Any:
    """Return the context length of a model list's entry, by any of the names that are used."""
    for name in ("max_model_len", "context_length", "context_window", "meta.n_ctx"):
        if (value := look_up(entry, name)) is not None:
            return value
    return None


# === One run at a time on a server ===


async def resolve(url: str) -> list[tuple[str, int]]:
    """Return the addresses and ports of a URL's host, [] when it has none that can be found."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            parts.hostname, port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        return []
    return sorted({(str(address[4][0]), port) for address in found})


def is_local(address: str) -> bool:
    """Return whether an address is this machine's: loopback, or one that can be bound here."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.is_loopback:
        return True
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


class ServerLock:
    """Says whether another run of this tool, by the same user, measures the same server.

    Two files an address. Who comes first holds `lock` until its end. Whoever else runs holds
    `guests` with others and adds a line to it, from which the first one learns at its end that it
    was not alone. With `wait` a run waits until it holds `lock` and nobody holds `guests`.
    The folder stands in /tmp whatever the environment says, as cron's and a terminal's differ.
    """

    POLL_S = 1.0

    def __init__(self, addresses: Iterable[tuple[str, int]], folder: Path | None = None) -> None:
        names = {lock_name(address, port) for address, port in addresses}
        self._names = sorted(names)
        self._folder = folder if folder is not None else runtime_folder()
        self._held: list[int] = []
        self._sizes: dict[int, int] = {}
        self.shared: bool | None = None  # None: not known

    async def take(self, *, wait: bool, waiting: Callable[[str], None]) -> None:
        """Take the lock. With `wait`, wait for other runs, and say so once.

        Raises OSError when the folder cannot be used, or the system has no such locks.
        """
        if not self._names:
            return
        if fcntl is None:
            raise OSError(0, "this system has no file locks of the kind that is needed")
        check_folder(self._folder)
        told = False
        try:
            while not self._try():
                if not wait:
                    self._be_guest()
                    return
                if not told:
                    waiting("waits until another run on this server has ended (--wait)")
                    told = True
                await asyncio.sleep(self.POLL_S)
        except OSError:
            self.release()
            raise

    def _open(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._folder / name, flags, 0o600)

    def _try(self) -> bool:
        """Take every lock, or none."""
        for name in self._names:
            lock, guests = self._open(f"{name}.lock"), self._open(f"{name}.guests")
            self._held += [lock, guests]
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(guests, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.release()
                return False
            fcntl.flock(guests, fcntl.LOCK_UN)
            self._sizes[guests] = os.fstat(guests).st_size
        self.shared = False
        return True

    def _be_guest(self) -> None:
        """Run beside another run; it shall know."""
        self.shared = True
        for name in self._names:
            guests = self._open(f"{name}.guests")
            self._held.append(guests)
            fcntl.flock(guests, fcntl.LOCK_SH)  # who holds it alone only tries it, and lets go
            os.lseek(guests, 0, os.SEEK_END)
            os.write(guests, b".")

    def release(self) -> None:
        """Give the locks back; `shared` then says whether anybody else was there."""
        for guests, size in self._sizes.items():
            grown = os.fstat(guests).st_size > size
            self.shared = self.shared or grown or not _is_free(guests)
        self._sizes.clear()
        while self._held:
            os.close(self._held.pop())


def _is_free(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def lock_name(address: str, port: int) -> str:
    """Return the file's name for an address; all of loopback is one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    place = "loopback" if ip.is_loopback else re.sub(r"[^\w.]", "_", address)
    return f"{place}-{port}"


def runtime_folder() -> Path:
    """Return where this user's locks are."""
    if os.name != "posix":
        return Path(tempfile.gettempdir(), "llm-stresstest")
    return Path(f"/tmp/llm-stresstest-{os.getuid()}")  # noqa: S108  checked before it is used


def check_folder(folder: Path) -> None:
    """Make the folder, or make sure that it is this user's alone. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(0, f"{folder} is no folder")
    if os.name == "posix" and (found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077):
        raise OSError(0, f"{folder} is not this user's alone (mode 0700)")


# === The watch around a load ===

START_S = 20.0  # for the sampler's process to say what the machine is
STOP_S = 3.0
END_S = 1.0  # after its last line the process ends at once
Row = dict[str, Any]


class Watch:
    """What a run knows of the machine and the server, in the order in which it asks.

    `prepare` before anything is sent, `start` once the server answers (it also watches the idle
    machine), `begin` with the load, `stop` after it; then `finish` with the rows of the journal,
    `energy` for the aggregate, `facts` for `meta.hardware`. Nothing of it raises: what fails is
    None, with a line in `missing` that says why.
    """

    def __init__(self, config: st.Config) -> None:
        self._config = config
        self._target: st.Target | None = None
        self._names: dict[str, str] = {}  # of columns, as they may be shown
        self._record: Callable[[Row], None] | None = None
        self._start_ns = 0  # what the rows' times count from
        self._before: list[Row] = []  # rows that came before the load, until that is known
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._known = asyncio.Event()  # what the machine is
        self._offset_ns = 0  # our clock minus the sampler's
        self._sent_ns = 0
        self._idle = self._stopping = False
        self._lock: ServerLock | None = None
        self.inventory: dict[str, Any] = {}
        self.server_info: dict[str, Any] | None = None  # what answered
        self.missing: dict[str, str] = {}
        self.others: list[dict[str, Any]] = []
        self.samples: dict[str, Any] | None = None

    async def prepare(self, target: st.Target, *, wait: bool, say: Callable[[str], None]) -> None:
        """Find out whether others measure this server, and start the sampler.

        With `wait` it waits until nobody does. What follows in `start` is asked of the server, so
        that this comes first of all.
        """
        if self._target is not None:  # a tool loads the same server again
            return
        self._target = target
        if self._config.server != "embedded":
            self._lock = ServerLock(await resolve(target.base))
            try:
                await self._lock.take(wait=wait, waiting=say)
            except OSError as error:
                st.logger.warning("other runs on this server are not seen: %s", error)
        try:
            await self._start_sampler(target)
        except Exception as error:  # noqa: BLE001  the run goes on without
            st.logger.warning("the machine is not watched", exc_info=error)
            self.inventory = {"unavailable": str(error) or type(error).__name__}

    async def start(self) -> None:
        """Take the server's fingerprint and watch the idle machine, once the server answers."""
        target = cast("st.Target", self._target)
        if self.server_info is not None:
            return
        try:
            told = await Fingerprint(target, self._config.model).take()
        except Exception as error:  # noqa: BLE001  a server may answer anything
            st.logger.warning("the server's fingerprint failed", exc_info=error)
            told = dict.fromkeys(COMMON_FACTS)
        self.server_info = {**told, **self._embedded(target)}
        known = [str(self.server_info[name]) for name in COMMON_FACTS if self.server_info[name]]
        st.logger.info("the server says: %s", st.printable(", ".join(known), 300) or "nothing")
        if self._reading is None:
            return
        described = asyncio.create_task(self._known.wait())
        both = (described, self._reading)
        await asyncio.wait(both, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        described.cancel()
        if not self.inventory:
            why = self.missing.get("sampler") or "it did not say what the machine is"
            self.inventory = {"unavailable": f"the sampler's process: {why}"}
        idle_s = self._config.hardware.idle_s
        if idle_s and set(self.inventory.get("sources", ())) & set(SOURCES):
            self._idle = True
            await asyncio.wait((self._reading,), timeout=idle_s)
            self._idle = False

    def begin(self, start_ns: int, record: Callable[[Row], None]) -> None:
        """Take what times count from, on the clock of time.perf_counter_ns, and where rows go.

        A row is {"t_ms", "values", "idle": True before the load}. What `record` raises is taken as
        the end of the rows: the results' own way to the disk says it aloud.
        """
        self._start_ns, self._record = start_ns, record
        before, self._before = self._before, []
        for row in before:
            self._pass_on(row)

    @staticmethod
    def _embedded(target: st.Target) -> dict[str, Any]:
        """Return what the embedded server's own description knows better."""
        engine = str((target.embedded or {}).get("engine", ""))
        return {"version": engine.partition(" by ")[2] or engine} if engine else {}

    async def _start_sampler(self, target: st.Target) -> None:
        if importlib.util.find_spec("psutil") is None:
            raise ModuleNotFoundError("hardware needs psutil: uv sync --inexact --group hardware")
        settings = await self._settings(target)
        if not settings["sample_s"]:  # nothing will be watched, so that this process can look
            Sampler(settings, self._take).prepare()
            return
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the extensions beside it are not to be imported for other packages
            str(Path(__file__).with_name("sampler.py")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the test, which then ends it
            limit=1 << 22,
        )
        self._sent_ns = time.perf_counter_ns()
        cast(asyncio.StreamWriter, self._process.stdin).write(json.dumps(settings).encode() + b"\n")
        self._reading = asyncio.create_task(self._read())

    async def _settings(self, target: st.Target) -> dict[str, Any]:
        """Return what the sampler needs; secrets go through its standard input only."""
        hardware, addresses = self._config.hardware, await resolve(target.base)
        key = target.headers.get("Authorization")
        own = key is not None and same_origin(hardware.metrics_url, target.base)
        page = {
            "url": filled(hardware.metrics_url),
            "headers": {"Authorization": key} if own else {},
        }
        plug: dict[str, Any] = {
            "url": filled(hardware.power_url),
            "headers": {},
            "path": hardware.power_path,
        }
        return {
            "sample_s": hardware.sample_s,
            "client_pid": os.getpid(),
            "server": {
                "pid": target.server_pid,
                "port": next((port for _, port in addresses), 0),
                "local": bool(addresses) and all(is_local(address) for address, _ in addresses),
            },
            "metrics": page if hardware.metrics_url else None,
            "power": plug if hardware.power_url else None,
            "power_command": hardware.power_command,
            "verify_tls": self._config.verify_tls,
            "ca_file": self._config.ca_file,
        }

    async def _read(self) -> None:
        """Take the sampler's lines until it ends."""
        output = cast(asyncio.StreamReader, cast(Any, self._process).stdout)
        with contextlib.suppress(ValueError):  # a line without an end
            while line := await output.readline():
                self._take(json.loads(line))
        if self._known.is_set() and not self._stopping and self._config.hardware.sample_s:
            self._fail("sampler", "it ended during the run; what it watched is null from then on")

    def _take(self, line: Mapping[str, Any]) -> None:
        if "t" in line:
            values = {self._name(name): value for name, value in line["v"].items()}
            row = {"t": line["t"] + self._offset_ns, "values": values}
            self._pass_on({**row, "idle": True} if self._idle else row)
            return
        if self._target is not None:
            line = self._target.redact.tree(line)
        if "fault" in line:
            for name, why in line["fault"].items():
                self._fail(name, why)
        elif "hello" in line:
            received_ns = time.perf_counter_ns()
            self._offset_ns = clock_offset_ns(self._sent_ns, line["hello"], received_ns)
        elif "inventory" in line:
            self.inventory = {**line["inventory"], "sources": line["sources"]}
            self._known.set()
        elif "missing" in line:
            self.missing.update(line["missing"])
            for name in line["missing"].keys() & self._asked_for():
                self._fail(name, line["missing"][name])
        else:
            self.others = line["others"]

    def _name(self, name: str) -> str:
        """Return a column's name without secrets, which a server's page may echo."""
        if name not in self._names:
            shown = name if self._target is None else self._target.redact(name)
            self._names[name] = shown  # looking takes long, and the same ones come each time
        return self._names[name]

    def _pass_on(self, row: Row) -> None:
        """Hand a row over with its time in the run, or keep it until that is known."""
        if self._record is None:
            self._before.append(row)
            return
        at_ns = row.pop("t") - self._start_ns
        try:
            self._record({"t_ms": round(at_ns / NS_PER_MS, 3), **row})
        except st.ResultsError as error:
            self._record = _forget
            self._fail("sampler", str(error))

    def _asked_for(self) -> set[str]:
        hardware = self._config.hardware
        wall = hardware.power_url or hardware.power_command
        return {name for name, key in (("wall", wall), ("metrics", hardware.metrics_url)) if key}

    def _fail(self, name: str, why: str) -> None:
        """Remember why a source failed; warn of one that was asked for."""
        self.missing[name] = why
        if name in self._asked_for() or name == "sampler":
            keys = {"wall": "power_url" if self._config.hardware.power_url else "power_command"}
            key = keys.get(name, "metrics_url")
            where = "the sampler's process" if name == "sampler" else f"hardware.{key}"
            st.notice(f"{where}: {st.printable(why, 300)}")

    async def stop(self) -> None:
        """End the sampler, which first says who else used the CPU; let others have the server."""
        if self._lock is not None:
            self._lock.release()
        if self._process is None or self._reading is None or self._stopping:
            return
        self._stopping = True
        cast(asyncio.StreamWriter, self._process.stdin).close()
        await asyncio.wait((self._reading,), timeout=STOP_S)
        try:
            async with asyncio.timeout(END_S):
                await self._process.wait()
        except TimeoutError:  # only then: asyncio complains of a kill that finds it just ended
            self._process.kill()
            await self._process.wait()
        self._reading.cancel()

    def finish(self, rows: Iterable[Row]) -> None:
        """Make the samples of the rows; those of a resumed run's earlier part are among them."""
        settings = self._config.hardware
        self.samples = columns(rows, settings.sample_s, self.missing, self.others)

    def energy(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """Return the `energy` of the aggregate's stages; see the function of this name."""
        return energy(self.samples, parts, self._config.hardware, self.inventory.get("host"))

    def facts(self, aggregate: Mapping[str, Any]) -> dict[str, Any]:
        """Return `meta.hardware`: the machine, what cannot be read, and what the load did to it."""
        parts = aggregate["stages"] or [aggregate]
        windows = [tuple(part["window_ms"]) for part in parts if part["window_ms"] is not None]
        load = figures(self.samples, windows, self.inventory, self.server_info)
        shared = None if self._lock is None else self._lock.shared
        return {**self.inventory, "missing": self.missing, "shared_server": shared, "load": load}


_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def _forget(_row: Row) -> None:
    """Take a row when the rows' own way to the disk is broken."""


def filled(link: str | None) -> str | None:
    """Return a URL with each `${NAME}` filled in from the environment, as URLs write it."""
    if link is None:
        return None
    values = os.environ
    quote = functools.partial(urllib.parse.quote, safe="")
    return _VARIABLE.sub(lambda found: quote(values.get(found.group(1), "")), link)


def same_origin(link: str | None, base: str) -> bool:
    """Return whether a link goes to the server itself; only then the server's key goes along."""
    if link is None:
        return False
    one, other = urllib.parse.urlsplit(link), urllib.parse.urlsplit(base)
    default = {"http": 80, "https": 443}
    ports = [parts.port or default.get(parts.scheme) for parts in (one, other)]
    return (one.scheme, one.hostname, ports[0]) == (other.scheme, other.hostname, ports[1])


def clock_offset_ns(sent_ns: int, theirs_ns: int, received_ns: int) -> int:
    """Return what to add to another process's clock to get ours.

    Its time was taken between our two. On Linux, macOS and Windows both clocks are the machine's,
    so that it lies between them and the offset is 0; else it is known to half of what lies between.
    """
    if sent_ns <= theirs_ns <= received_ns:
        return 0
    return (sent_ns + received_ns) // 2 - theirs_ns


# === What the samples say ===

MOST_ROWS = 10_000  # in a results file; of more every second, third, … row is kept
COVERED = 0.8  # of a window, from which a figure stands for it
GAP_BEATS = 2.5  # samples further apart do not cover the time between them
SOURCES = ("wall", "gpu", "cpu_package")
ENERGY_KEYS = (
    "idle_w", "mean_w", "peak_w", "wh", "wh_net", "j_per_token", "j_per_token_net",
    "wh_per_1000_answers", "price_per_1000_answers", "wh_per_1000_correct",
    "price_per_1000_correct", "coverage", "reason",
)  # fmt: skip


class Work(NamedTuple):
    """What came in a stage's own window, from its first send to its last token."""

    start_ms: float
    end_ms: float
    tokens: int | None
    answers: int
    correct: int | None  # None when nothing was graded

    @classmethod
    def of(cls, part: Mapping[str, Any]) -> Work:
        """Return that of an aggregate, of a stage or the whole."""
        start_ms, end_ms = part["window_ms"] or (0.0, 0.0)
        quality = part["quality"]
        correct = quality["correct"] if quality["graded"] else None
        return cls(start_ms, end_ms, part["token_sum"], part["ok"], correct)


class Prices(Protocol):
    """The config's `hardware` as far as money is concerned."""

    @property
    def price_per_kwh(self) -> float | None:
        """What a kWh costs, in any currency."""

    @property
    def price_per_hour(self) -> float | None:
        """What an hour of the machine costs."""


def columns(
    rows: Iterable[Mapping[str, Any]],
    sample_s: float | None,
    missing: Mapping[str, str] | None = None,
    others: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any] | None:
    """Return the rows as columns on one time axis, None without rows.

    {"sample_s", "every", "idle_ms": [[from, to], …], "missing": {source: why}, "t_ms": […],
    "columns": {name: […]}}; a value that a row lacks is None. Times count from the run's start.
    """
    kept = sorted(rows, key=lambda row: row["t_ms"])
    if not kept or not sample_s:
        return None
    idle = [row["t_ms"] for row in kept if row.get("idle")]
    spans = list[list[float]]()
    for at_ms in idle:  # a resumed run has a second idle time
        if spans and at_ms - spans[-1][1] <= GAP_BEATS * 1000 * sample_s:
            spans[-1][1] = at_ms
        else:
            spans.append([at_ms, at_ms])
    every = math.ceil(len(kept) / MOST_ROWS)
    kept = kept[::every]
    names = dict.fromkeys(name for row in kept for name in row["values"])
    return {
        "sample_s": sample_s,
        "every": every,
        "idle_ms": spans,
        "missing": dict(missing or {}),
        "others": [dict(other) for other in others],
        "t_ms": [row["t_ms"] for row in kept],
        "columns": {name: [row["values"].get(name) for row in kept] for name in names},
    }


class Segment(NamedTuple):
    """The power between two samples next to each other: a straight line between its ends."""

    start_ms: float
    end_ms: float
    start_w: float
    end_w: float

    def clipped(self, start_ms: float, end_ms: float) -> Segment | None:
        """Return the part that lies in a window; itself where that is all of it."""
        low, high = max(self.start_ms, start_ms), min(self.end_ms, end_ms)
        if low >= high:
            return None
        if (low, high) == (self.start_ms, self.end_ms):
            return self
        slope = (self.end_w - self.start_w) / (self.end_ms - self.start_ms)
        ends = (self.start_w + slope * (at - self.start_ms) for at in (low, high))
        return Segment(low, high, *ends)

    @property
    def joules(self) -> float:
        """The area below the line."""
        return (self.start_w + self.end_w) / 2 * (self.end_ms - self.start_ms) / 1000


def segments(samples: Mapping[str, Any], source: str) -> list[Segment]:
    """Return a source's power over time, from its joules where it counts them, else its watts.

    Where samples are missing for longer than GAP_BEATS beats there is none.
    """
    table, longest_ms = samples["columns"], GAP_BEATS * 1000 * samples["sample_s"]
    counted_j = table.get(f"{source}_j")
    values = table.get(f"{source}_w", []) if counted_j is None else counted_j
    known = [(t, v) for t, v in zip(samples["t_ms"], values, strict=False) if v is not None]
    found = list[Segment]()
    for (before_ms, before), (now_ms, now) in itertools.pairwise(known):
        span_ms = now_ms - before_ms
        if not 0 < span_ms <= longest_ms * samples["every"]:
            continue
        if counted_j is None:
            found.append(Segment(before_ms, now_ms, before, now))
        elif now >= before:  # else the counter started again
            mean_w = (now - before) * 1000 / span_ms
            found.append(Segment(before_ms, now_ms, mean_w, mean_w))
    return found


def power(line: Sequence[Segment], start_ms: float, end_ms: float) -> dict[str, Any]:
    """Return `mean_w`, `peak_w` and the `coverage` of a window; null watts when under COVERED.

    At a window's ends the power changes: before a stage the machine rests, or does another one. So
    the time up to the first sample inside counts with that sample's power, not with what lies
    between it and the one before; the same at the end.
    """
    both = [(each, part) for each in line if (part := each.clipped(start_ms, end_ms)) is not None]
    parts = [part for _, part in both]
    cut = [part is not each for each, part in both]
    if len(parts) > 2:
        first, second, before_last, last = parts[0], parts[1], parts[-2], parts[-1]
        if cut[0] and first.end_ms == second.start_ms:
            parts[0] = first._replace(start_w=second.start_w, end_w=second.start_w)
        if cut[-1] and last.start_ms == before_last.end_ms:
            parts[-1] = last._replace(start_w=before_last.end_w, end_w=before_last.end_w)
    covered_ms = sum(part.end_ms - part.start_ms for part in parts)
    coverage = covered_ms / (end_ms - start_ms) if end_ms > start_ms else 0.0
    if coverage < COVERED:
        return {"mean_w": None, "peak_w": None, "coverage": coverage}
    joules = sum(part.joules for part in parts)
    peak_w = max(max(part.start_w, part.end_w) for part in parts)
    return {"mean_w": joules * 1000 / covered_ms, "peak_w": peak_w, "coverage": coverage}


def energy(
    samples: Mapping[str, Any] | None,
    parts: Sequence[Mapping[str, Any]],
    prices: Prices,
    host: str | None = None,
) -> dict[str, Any] | None:
    """Return what a run's aggregates, of its stages or of the whole, have as `energy`.

    {"whole": {"wall": {…}, "gpu": {…}, "cpu_package": {…}, "hours": {…}}, "stages": [the same, …]};
    each source has ENERGY_KEYS, null with a `reason` where samples do not cover 80 % of a stage's
    own window. Wh are the mean power times the window, `_net` without the idle watts before the
    load, prices those of the Wh alone; `hours` is what `price_per_hour` makes of the time. The
    whole is the sum of the stages, without the pauses between them. GPU and CPU count only where
    `host` says that the server is on this machine too; a DCGM page's GPUs are the server's anyway.
    None when nothing was sampled and no hour has a price.
    """
    if samples is None and prices.price_per_hour is None:
        return None
    stages = [Work.of(part) for part in parts]
    each: list[dict[str, Any]] = []
    for work in stages:
        found = {name: _source(samples, name, work, prices, host) for name in SOURCES}
        each.append({**found, "hours": _hours(work, prices)})
    whole = {name: _sum(each, stages, name, prices) for name in SOURCES}
    return {"whole": {**whole, "hours": _hours(_added(stages), prices)}, "stages": each}


def _added(stages: Sequence[Work]) -> Work:
    """Return all stages' work as one window as long as theirs together."""
    length_ms = sum(work.end_ms - work.start_ms for work in stages)
    known = [work.tokens for work in stages]
    graded = [work.correct for work in stages]
    return Work(
        0.0,
        length_ms,
        None if None in known else sum(cast(list[int], known)),
        sum(work.answers for work in stages),
        None if None in graded else sum(cast(list[int], graded)),
    )


def _source(
    samples: Mapping[str, Any] | None, name: str, work: Work, prices: Prices, host: str | None
) -> dict[str, Any]:
    """Return a source's figures over one stage."""
    found = dict.fromkeys(ENERGY_KEYS)
    column = name
    if name == "gpu" and samples and "dcgm_gpu_w" in samples["columns"]:
        column = "dcgm_gpu"
    elif name != "wall" and host == "client":
        return {**found, "reason": "the server runs on another machine, whose power this is not"}
    line = [] if samples is None else segments(samples, column)
    if samples is None or not line:
        missing = {} if samples is None else samples["missing"]
        why = missing.get(name) or missing.get("sampler") or "hardware.sample_s is off"
        return {**found, "reason": why}
    shown = power(line, work.start_ms, work.end_ms)
    if shown["mean_w"] is None:
        return {**found, **shown, "reason": _too_thin(samples, name, work, shown["coverage"])}
    idle = [power(line, *span) for span in samples["idle_ms"] if span[1] > span[0]]
    known = [span["mean_w"] for span in idle if span["mean_w"] is not None]
    idle_w = known[-1] if known else None
    return {**found, **shown, "idle_w": idle_w, **_costs(shown["mean_w"], idle_w, work, prices)}


def _too_thin(samples: Mapping[str, Any], name: str, work: Work, coverage: float) -> str:
    why = samples["missing"].get(name) or samples["missing"].get("sampler")
    if why is None and work.end_ms - work.start_ms < 2000 * samples["sample_s"]:
        why = "it is shorter than two samples; see hardware.sample_s"
    return f"samples cover {coverage:.0%} of it" + (f": {why}" if why else "")


def _costs(mean_w: float, idle_w: float | None, work: Work, prices: Prices) -> dict[str, Any]:
    """Return what the power comes to, by tokens, by answers and by correct answers."""
    hours = (work.end_ms - work.start_ms) / 3_600_000
    wh = mean_w * hours
    net = None if idle_w is None else wh - idle_w * hours
    price = None if prices.price_per_kwh is None else wh / 1000 * prices.price_per_kwh
    return {
        "wh": wh,
        "wh_net": net,
        "j_per_token": _per(wh, work.tokens, 3600),
        "j_per_token_net": _per(net, work.tokens, 3600),
        "wh_per_1000_answers": _per(wh, work.answers),
        "price_per_1000_answers": _per(price, work.answers),
        "wh_per_1000_correct": _per(wh, work.correct),
        "price_per_1000_correct": _per(price, work.correct),
    }


def _per(amount_: float | None, count: int | None, each: int = 1000) -> float | None:
    """Return an amount for so many of what was counted; None when nothing was, or was not known."""
    return None if amount_ is None or not count else amount_ * each / count


def _hours(work: Work, prices: Prices) -> dict[str, Any]:
    hours = (work.end_ms - work.start_ms) / 3_600_000
    price = None if prices.price_per_hour is None else hours * prices.price_per_hour
    return {
        "hours": hours,
        "price_per_1000_answers": _per(price, work.answers),
        "price_per_1000_correct": _per(price, work.correct),
    }


def _sum(
    parts: Sequence[Mapping[str, Any]], stages: Sequence[Work], name: str, prices: Prices
) -> dict[str, Any]:
    """Return a source's figures over all stages; one that lacks them makes the whole unknown."""
    each = [part[name] for part in parts]
    if len(each) == 1:
        return dict(each[0])
    lacking = next((i for i, found in enumerate(each) if found["wh"] is None), None)
    if lacking is not None or not each:
        why = each[lacking]["reason"] if lacking is not None else "nothing was asked"
        where = "" if lacking is None else f"stage {lacking + 1}: "
        alike = len({found["reason"] for found in each}) == 1
        return {**dict.fromkeys(ENERGY_KEYS), "reason": why if alike else where + why}
    total = _added(stages)
    spans = [work.end_ms - work.start_ms for work in stages]
    mean_w = sum(found["mean_w"] * span for found, span in zip(each, spans, strict=True))
    coverage = sum(found["coverage"] * span for found, span in zip(each, spans, strict=True))
    return {
        **dict.fromkeys(ENERGY_KEYS),
        "idle_w": each[-1]["idle_w"],
        "mean_w": mean_w / sum(spans),
        "peak_w": max(found["peak_w"] for found in each),
        "coverage": coverage / sum(spans),
        **_costs(mean_w / sum(spans), each[-1]["idle_w"], total, prices),
    }


# === Heat, room, and what else went on ===

BUSY = 50.0  # percent of use from which a clock says something
SLOW_CLOCK = 0.85  # of the run's usual clock under load
NOT_HEAT = {"sw_power_cap"}  # the limit that a GPU is set to, which is its normal full load


def figures(
    samples: Mapping[str, Any] | None,
    windows: Sequence[tuple[float, float]],
    inventory_: Mapping[str, Any],
    server_info: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Return what the load did to the machine: `meta.hardware.load`, and what validity judges.

    `windows` are the stages' own, in ms as the samples' times. None without samples in them.
    """
    if samples is None or not windows:
        return None
    whole = Window(samples, windows[0][0], windows[-1][1])
    if not whole.rows:
        return None
    share = (server_info or {}).get("vram_share")
    gpus = inventory_.get("gpus") or []
    peaks = [whole.highest(f"gpu{place}_memory_bytes") for place in range(len(gpus))]
    totals = [gpu.get("memory_bytes") for gpu in gpus]
    usable = inventory_.get("cores_usable")
    others = whole.mean("others_cpu_percent")
    gpu_others = whole.mean("gpu_others_percent")
    on_battery = whole.known("on_battery")
    return {
        "host": inventory_.get("host"),
        "memory_peak_bytes": whole.highest("memory_used_bytes"),
        "server_memory_peak_bytes": whole.highest("server_memory_bytes"),
        "swap_growth_bytes": whole.growth("swap_used_bytes"),
        "swapped_out_bytes": whole.growth("swapped_out_bytes"),
        "gpu_memory_peak_bytes": peaks,
        "vram_headroom_bytes": [
            None if peak is None or total is None else total - peak
            for peak, total in zip(peaks, totals, strict=True)
        ],
        "spill": None if share is None else round(1 - share, 4),
        "others_cores_share": None if others is None or not usable else others / 100 / usable,
        "others_gpu_share": None if gpu_others is None else gpu_others / 100,
        "others": samples["others"],
        "on_battery": any(on_battery) if on_battery else None,
        "server": {name: whole.growth(name) for name in COUNTERS if whole.known(name)}
        | {f"{name}_peak": whole.highest(name) for name in _GAUGES if whole.known(name)},
        "stages": [heat(samples, window, whole, len(gpus)) for window in windows],
    }


_GAUGES = ("running", "waiting", "kv_cache_usage")


class Window:
    """The samples of a span of time."""

    def __init__(self, samples: Mapping[str, Any], start_ms: float, end_ms: float) -> None:
        times, self._table = samples["t_ms"], samples["columns"]
        self.rows = [i for i, at_ms in enumerate(times) if start_ms <= at_ms <= end_ms]

    def known(self, name: str) -> list[Any]:
        """Return a column's values that are there."""
        column = self._table.get(name, ())
        return [column[i] for i in self.rows if column and column[i] is not None]

    def pairs(self, name: str, other: str) -> list[tuple[Any, Any]]:
        """Return two columns' values where both are there."""
        one, two = (self._table.get(each) for each in (name, other))
        if not one or not two:
            return []
        both = ((one[i], two[i]) for i in self.rows)
        return [(a, b) for a, b in both if a is not None and b is not None]

    def mean(self, name: str) -> float | None:
        """Return a column's mean."""
        values = cast(list[float], self.known(name))
        return sum(values) / len(values) if values else None

    def highest(self, name: str) -> float | None:
        """Return a column's highest value."""
        return max(self.known(name), default=None)

    def growth(self, name: str) -> float | None:
        """Return how much a column grew from its first value to its last."""
        values = self.known(name)
        return values[-1] - values[0] if values else None


def heat(
    samples: Mapping[str, Any], window: tuple[float, float], whole: Window, gpus: int
) -> dict[str, Any]:
    """Return a stage's clocks, temperatures and what held the clocks down, for CPU and GPUs."""
    stage = Window(samples, *window)
    named = [("cpu", "cpu_percent")]
    named += [(f"gpu{place}", f"gpu{place}_util_percent") for place in range(gpus)]
    found = dict[str, Any]()
    for name, use in named:
        reasons = stage.known(f"{name}_throttle")
        stood = {reason for each in reasons for reason in each}
        found[name] = {
            "mhz": stage.mean(f"{name}_mhz"),
            "temp_c": stage.highest(f"{name}_temp_c"),
            "throttle": {
                reason: round(sum(reason in each for each in reasons) / len(reasons), 4)
                for reason in sorted(stood)
            }
            if reasons
            else None,
            "slow_clock_share": slow_share(stage, whole, name, use),
        }
    return found


def slow_share(stage: Window, whole: Window, name: str, use: str) -> float | None:
    """Return the share of a stage's samples under load whose clock fell below the run's usual.

    The usual clock is the one that a tenth of the run's samples under load exceed. A GPU that its
    power limit holds back is left out, as that is how it is set.
    """
    usual = sorted(mhz for mhz, busy in whole.pairs(f"{name}_mhz", use) if busy >= BUSY)
    here = [mhz for mhz, busy in stage.pairs(f"{name}_mhz", use) if busy >= BUSY]
    capped = any("sw_power_cap" in each for each in stage.known(f"{name}_throttle"))
    if len(usual) < 10 or len(here) < 3 or capped:
        return None
    limit = SLOW_CLOCK * usual[int(0.9 * (len(usual) - 1))]
    slow: int = sum(mhz < limit for mhz in here)
    return round(slow / len(here), 4)


# === Validity ===

THROTTLED_SHARE = 0.1
SWAPPED_BYTES = 64 << 20
OTHERS_SHARE = 0.2


def load_of(run: st.Evidence) -> Mapping[str, Any]:
    """Return what the load did to the machine, {} when that was not watched."""
    return run.load.hardware.get("load") or {}


@st.validity_rule
def throttled(run: st.Evidence) -> st.Reason | None:
    """Say when clocks were held down, or fell, for a tenth of a stage or longer."""
    load = load_of(run)
    if not load or load["host"] == "client":  # then it is not the server's machine
        return None
    for place, stage in enumerate(load["stages"], 1):
        where = f" in stage {place}" if len(load["stages"]) > 1 else ""
        for name, found in stage.items():
            held = {r: s for r, s in (found["throttle"] or {}).items() if r not in NOT_HEAT}
            worst = max(held, key=lambda reason: held[reason], default=None)
            if worst is not None and held[worst] >= THROTTLED_SHARE:
                said = f"held back{where} ({worst.replace('_', ' ')}) for {held[worst]:.0%}"
            elif (found["slow_clock_share"] or 0) >= THROTTLED_SHARE:
                said = f"clocks fell{where} for {found['slow_clock_share']:.0%}"
            else:
                continue
            remedy = "cool it better, limit its power, or set cooldown"
            return st.Reason("SUSPECT", "throttled", f"{name.upper()} {said} of the time; {remedy}")
    return None


@st.validity_rule
def swapping(run: st.Evidence) -> st.Reason | None:
    """Say how much memory was swapped out during the load, when that is not little."""
    load = load_of(run)
    grown = max(load.get("swap_growth_bytes") or 0, load.get("swapped_out_bytes") or 0)
    if grown < SWAPPED_BYTES:
        return None
    said = f"{grown / (1 << 20):.0f} MiB were swapped out under load"
    return st.Reason(
        "SUSPECT", "swapping", f"{said}; use a smaller model or context, or free memory"
    )


@st.validity_rule
def busy_machine(run: st.Evidence) -> st.Reason | None:
    """Say who else used more than a fifth of the usable cores, or of the GPU."""
    load = load_of(run)
    for what in ("cores", "gpu"):
        share = load.get(f"others_{what}_share")
        if share is None or share <= OTHERS_SHARE:
            continue
        used = Counter[str]()
        for other in load["others"]:
            used[st.printable(other["name"], 40)] += other["cpu_s"]
        named = [f"{name} ({seconds:.0f} s)" for name, seconds in used.most_common()]
        who = ", ".join(named) if named and what == "cores" else "they do not show from here"
        said = f"other processes used {share:.0%} of the {what.replace('gpu', 'GPU')}: {who}"
        return st.Reason("SUSPECT", "busy_machine", f"{said}; stop them, and run it again")
    return None


@st.validity_rule
def on_battery(run: st.Evidence) -> st.Reason | None:
    """Say when the machine ran on its battery, which slows it down."""
    load = load_of(run)
    if not load.get("on_battery") or load["host"] == "client":
        return None
    why = "the machine ran on its battery, which slows it down"
    return st.Reason("SUSPECT", "on_battery", f"{why}; plug it in, and run it again")


@st.validity_rule
def shared_server(run: st.Evidence) -> st.Reason | None:
    """Say when another run of this tool, by the same user, measured the same server."""
    if not run.load.hardware.get("shared_server"):
        return None
    why = "another run of this tool measured the same server at the same time"
    return st.Reason("SUSPECT", "shared_server", f"{why}; --wait lets them follow each other")
