"""DynamoDB and KMS for the benchmarks: the emulator's own tables and keys behind a lean server.

Executed by the emulator's environment, in a process of its own, so that what is measured is the
client alone. The rows are real, their conditions are evaluated, and a connection is kept, as AWS
keeps it. Left out is what the emulator does around a call: routing, IAM, the audit log.

    python store.py      # prints its port, and ends when its standard input does

``GET /counts`` tells which calls came since the last time, and their bytes:
``{"process": 123, "calls": {"UpdateItem": 1}, "sent": 1200, "received": 900}``.
``POST /load`` puts rows into a table that differ in their key alone:
``{"table": "…", "row": {…}, "rows": 1000000}``.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SERVICES = {"DynamoDB_20120810": "dynamodb", "TrentService": "kms"}


class Store:
    def __init__(self) -> None:
        self._handlers: dict[str, Callable[..., Any]] = {
            prefix: importlib.import_module(f"ministack.services.{name}").handle_request
            for prefix, name in SERVICES.items()
        }
        self._reset()

    def _reset(self) -> None:
        self._calls: Counter[str] = Counter()
        self._sent = self._received = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests with a Content-Length, one after the other."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, *fields = head.decode("latin-1").split("\r\n")[:-2]
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (field.partition(":") for field in fields)
                }
                if headers.get("expect", "").lower() == "100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                length = int(headers.get("content-length", 0))
                body = await reader.readexactly(length) if length else b""
                status, told, answer = await self._answer(line, headers, body)
                if line.startswith("POST"):
                    self._sent += len(head) + len(body)
                    self._received += len(answer)
                told = {**told, "Content-Length": str(len(answer))}
                shown = "".join(f"{name}: {value}\r\n" for name, value in told.items())
                writer.write(f"HTTP/1.1 {status} \r\n{shown}\r\n".encode("latin-1") + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(
        self, line: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if line.startswith("GET /counts "):
            sizes = {"sent": self._sent, "received": self._received}
            counts = {"process": os.getpid(), "calls": self._calls, **sizes}
            told = json.dumps(counts).encode()
            self._reset()
            return 200, {"Content-Type": "application/json"}, told
        if line.startswith("POST /load "):
            self._load(**json.loads(body))
            return 200, {"Content-Type": "application/json"}, b"{}"
        prefix, _, operation = headers.get("x-amz-target", "").partition(".")
        self._calls[operation] += 1
        status, told, answer = await self._handlers[prefix]("POST", "/", headers, body, {})
        return status, told, answer.encode() if isinstance(answer, str) else answer

    @staticmethod
    def _load(table: str, row: dict[str, Any], rows: int) -> None:
        """They share what they have in common, so that a million of them have room in memory."""
        database = importlib.import_module("ministack.services.dynamodb")
        found = database._tables.get(table)
        names = [name for name in (found["pk_name"], found["sk_name"]) if name]
        for _ in range(rows):
            key = {name: base64.urlsafe_b64encode(os.urandom(16)).decode()[:22] for name in names}
            item = {**row, **{name: {"S": value} for name, value in key.items()}}
            database._set_item(found, *key.values(), item)


async def main() -> None:
    store = Store()
    server = await asyncio.start_server(store.serve, "127.0.0.1", 0, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    async with server:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        os._exit(0)  # connections that are still open are nobody's any more


if __name__ == "__main__":
    asyncio.run(main())
