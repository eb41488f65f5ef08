"""Every block of Python in the README and in docs/ runs, page by page, from top to bottom, in one namespace.

Sybil finds the blocks.  A page may prepare what its blocks use in a comment that readers do not see,

    <!--- invisible-code-block: python
    urls = [f"{service}/{number}" for number in range(20)]
    --->

where `service` is the address of an HTTP server on the loopback interface: GET /17 is answered with 17 after 2 ms
(`service.seconds`), GET /fail with a status of 500 at once, and `service.peak` is how many requests it ever held at once.  If
`service.room` is set, more than so many are answered with a status of 429 at once, and counted in `service.refused`; the others
wait until one is.  `await redis_server()` starts a Redis (or Valkey) for the page, and gives its address;
`await postgres_server()` the same with PostgreSQL.  `stack` is an AsyncExitStack that is closed after the page.  `await` may
stand outside of functions, as in `python -m asyncio`.  A block of `text`
behind one of Python is what that has printed.  `<!--- skip: next "the reason" --->` leaves a block out.

Needs the packages of the extra `docs`; with GATEDCORO_REQUIRE_DOCS=1 a missing one is a failure.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import sys
import threading
import time
import unittest
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
REQUIRED = os.environ.get("GATEDCORO_REQUIRE_DOCS") == "1"

pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the tests stand alone here")


# --- The service ----------------------------------------------------------------------------------------------------


class Service(str):
    """The address of the server, which counts."""

    seconds = 0.002
    held = peak = refused = 0
    room: int | None = None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two packets
    server: Server

    def do_GET(self) -> None:
        service = self.server.service
        body = self.path[1:].encode()
        with self.server.lock:
            is_full = service.room is not None and service.held >= service.room
            service.refused += is_full
            if is_full:
                self.server.has_refused.set()
            service.held += not is_full
            service.peak = max(service.peak, service.held)
        fails = body == b"fail"
        if not fails and not is_full:
            if service.room is not None:
                self.server.has_refused.wait(timeout=10)
            time.sleep(service.seconds)  # as if a database were behind it
        with self.server.lock:
            service.held -= not is_full
        self.send_response(429 if is_full else 500 if fails else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.service = Service(f"http://127.0.0.1:{self.server_port}")
        self.lock = threading.Lock()
        self.has_refused = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that has gone away


@pytest.fixture
def service() -> Iterator[Service]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.service
        server.shutdown()
        thread.join()


@contextlib.asynccontextmanager
async def redis_server() -> AsyncIterator[str]:
    """The address of a Redis or Valkey; the page is skipped where there is none."""
    from benchmarks.real import servers

    if why := servers.no_redis():
        (pytest.fail if REQUIRED else pytest.skip)(why)
    async with servers.redis() as port:
        yield f"redis://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def postgres_server() -> AsyncIterator[str]:
    """Where to connect to a PostgreSQL; the page is skipped where there is none."""
    from benchmarks.real import servers

    if why := servers.no_postgres():
        (pytest.fail if REQUIRED else pytest.skip)(why)
    async with servers.postgres() as address:
        yield address


# --- Running a page -------------------------------------------------------------------------------------------------


class Page:
    """Evaluates the blocks of one page, and keeps what they print."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.printed = ""

    def python(self, example: Any) -> None:
        source = "\n" * (example.line + example.parsed.line_offset) + example.parsed
        code = compile(source, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            if "asyncio.run(" in example.parsed:  # a program of its own
                exec(code, example.namespace)
            else:
                self.runner.run(self.inside_of_the_loop(code, example.namespace))
        self.printed = output.getvalue()

    async def inside_of_the_loop(self, code: Any, namespace: dict[str, Any]) -> None:
        awaitable = eval(code, namespace)
        if inspect.iscoroutine(awaitable):
            await awaitable

    def text(self, example: Any) -> None:
        assert self.printed == example.parsed, f"{example.path}, line {example.line}"
        self.printed = ""

    def nothing(self, example: Any) -> None:
        """Blocks of commands are looked at in test_documentation.py."""


def parsed(page: Path, evaluators: Page) -> Any:
    try:
        from sybil import Document
        from sybil.parsers.markdown import CodeBlockParser, SkipParser
    except ImportError:
        if REQUIRED:
            raise
        pytest.skip("needs sybil")
    return Document.parse(
        str(page),
        CodeBlockParser("python", evaluators.python),
        CodeBlockParser("text", evaluators.text),
        CodeBlockParser("sh", evaluators.nothing),
        SkipParser(),
    )


@pytest.fixture
def langchain_is_left_as_it_was() -> Iterator[None]:
    yield
    if "gatedcoro.langchain" in sys.modules:
        sys.modules["gatedcoro.langchain"].uninstall()


@pytest.mark.usefixtures("langchain_is_left_as_it_was")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")  # other packages'
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_run(page, service, monkeypatch):
    monkeypatch.chdir(ROOT)
    with asyncio.Runner() as runner:
        document = parsed(page, Page(runner))
        stack = contextlib.AsyncExitStack()
        document.namespace |= {
            "__name__": "__main__",
            "service": service,
            "redis_server": lambda: stack.enter_async_context(redis_server()),
            "postgres_server": lambda: stack.enter_async_context(postgres_server()),
            "stack": stack,
        }
        try:
            for example in document.examples():
                with contextlib.suppress(unittest.SkipTest):
                    example.evaluate()
        except ModuleNotFoundError as error:
            if REQUIRED:
                raise
            pytest.skip(f"{page.name}, line {example.line}: needs {error.name}")
        finally:
            runner.run(stack.aclose())
