"""One DynamoDB call by several clients: processor time of a call, and of a start. A table for
docs/performance.md.

    python -m tests.bench.aws_clients [--rounds 31] [--write docs/performance.md]

Every client makes the UpdateItem of a refresh, with credentials as Lambda gives them, over a kept
connection to a server of this machine that answers the same to everybody and runs in a process of its
own. They take turns, and each one's answer is compared with boto3's. A start is a fresh process that
loads the client and makes it, and calls nothing.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.httpsession import URLLib3Session

from keyferry import aws, clock
from keyferry.aws_json.client import DynamoDb
from keyferry.aws_json.connections import Answer

CALLS: Final = 50
"""In one round of one client."""

REGION: Final = "eu-central-1"
ENVIRON: Final = {
    "AWS_ACCESS_KEY_ID": "ASIAEXAMPLEEXAMPLE00",
    "AWS_SECRET_ACCESS_KEY": "x" * 40,
    "AWS_SESSION_TOKEN": "y" * 800,  # about as long as one of a Lambda function
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
}

REQUEST: Final[dict[str, Any]] = {
    "TableName": "keyferry-prod-SessionsTable-1ABCDEFGHIJKL",
    "Key": {"sub": {"S": "A" * 22}, "sid": {"S": "B" * 22}},
    "ConditionExpression": (
        "generation = :presented AND #status = :active AND jkt = :jkt AND client_id = :client_id"
        " AND secret_hash = :secret_hash AND idle_expires_at > :now"
        " AND absolute_expires_at > :now AND generation < :max_generation"
    ),
    "UpdateExpression": (
        "SET generation = :successor, rotated_at = :now, idle_expires_at = :idle_expires_at,"
        " expires_at = :expires_at, mac_kid = :mac_kid, last_request = :request_id"
    ),
    "ExpressionAttributeNames": {"#status": "status"},
    "ExpressionAttributeValues": {
        ":presented": {"N": "7"},
        ":active": {"S": "active"},
        ":jkt": {"S": "C" * 43},
        ":client_id": {"S": "ios"},
        ":secret_hash": {"B": bytes(range(32))},
        ":now": {"N": "1795000000"},
        ":max_generation": {"N": "4294967295"},
        ":successor": {"N": "8"},
        ":idle_expires_at": {"N": "1795604800"},
        ":expires_at": {"N": "1795691200"},
        ":mac_kid": {"S": "D" * 11},
        ":request_id": {"S": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"},
    },
    "ReturnValues": "ALL_NEW",
    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
}

ROW: Final[dict[str, Any]] = {
    **{f"text_{n}": {"S": "x" * 24} for n in range(12)},
    **{f"number_{n}": {"N": "1795000000"} for n in range(9)},
    "secret_hash": {"B": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="},
    "attested": {"BOOL": False},
}

Call = Callable[[], dict[str, Any]]

BEGIN, END = "<!-- clients: begin -->\n", "<!-- clients: end -->\n"


def boto3_as_it_comes(url: str) -> Call:
    client: Any = session().client("dynamodb", endpoint_url=url)
    return lambda: client.update_item(**REQUEST)["Attributes"]


def boto3_tuned(url: str) -> Call:
    config = Config(
        connect_timeout=1,
        read_timeout=2,
        retries={"mode": "standard", "total_max_attempts": 2},
        tcp_keepalive=True,
        user_agent="keyferry",
        parameter_validation=False,
        disable_request_compression=True,
    )
    client: Any = session().client("dynamodb", endpoint_url=url, config=config)
    return lambda: client.update_item(**REQUEST)["Attributes"]


def botocores_parts(url: str) -> Call:
    """Its signature and its HTTP session; the JSON is Keyferry's."""
    token = ENVIRON["AWS_SESSION_TOKEN"]
    credentials = Credentials(ENVIRON["AWS_ACCESS_KEY_ID"], ENVIRON["AWS_SECRET_ACCESS_KEY"], token)
    signer, http_session = SigV4Auth(credentials, "dynamodb", REGION), URLLib3Session()

    def exchange(headers: Mapping[str, str], body: bytes) -> Answer:
        named = {"Content-Type", "X-Amz-Target", "User-Agent"}
        kept = {name: value for name, value in headers.items() if name in named}
        request = AWSRequest("POST", f"{url}/", headers=kept, data=body)
        signer.add_auth(request)
        response = http_session.send(request.prepare())
        told = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, told, response.content)

    return lean(url, exchange, signed=False)


def standard_library(url: str) -> Call:
    """http.client; signature and JSON are Keyferry's."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=2)

    def exchange(headers: Mapping[str, str], body: bytes) -> Answer:
        connection.request("POST", "/", body, dict(headers))
        response = connection.getresponse()
        told = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, told, response.read())

    return lean(url, exchange)


def as_shipped(url: str) -> Call:
    return lean(url)


def lean(
    url: str,
    exchange: Callable[[Mapping[str, str], bytes], Answer] | None = None,
    *,
    signed: bool = True,
) -> Call:
    environ = {**ENVIRON, "AWS_ENDPOINT_URL": url}
    client: Any = DynamoDb.from_environ(environ, user_agent="keyferry", random=clock.random)
    if exchange is not None:
        client.exchange = exchange
    if not signed:
        client._signer = SimpleNamespace(sign=lambda *_: None)
    return lambda: client.update_item(**REQUEST)["Attributes"]


CLIENTS: Final[Mapping[str, Callable[[str], Call]]] = {
    "boto3, as it comes": boto3_as_it_comes,
    "boto3, tuned": boto3_tuned,
    "botocore's signature and HTTP, own JSON": botocores_parts,
    "standard library: own signature and JSON, `http.client`": standard_library,
    "`keyferry.aws_json`, as shipped": as_shipped,
}
SHIPPED: Final = "`keyferry.aws_json`, as shipped"

STARTS: Final[Mapping[str, str]] = {
    "boto3, as it comes": "import boto3; boto3.client('dynamodb')",
    "boto3, tuned": (
        "import boto3; from botocore.config import Config;"
        " boto3.client('dynamodb', config=Config(user_agent='keyferry'))"
    ),
    "botocore's signature and HTTP, own JSON": (
        "import json; from botocore.auth import SigV4Auth;"
        " from botocore.credentials import Credentials;"
        " from botocore.httpsession import URLLib3Session; URLLib3Session()"
    ),
    "standard library: own signature and JSON, `http.client`": (
        "import http.client; from keyferry.aws_json.sigv4 import Signer; import json, zlib, uuid"
    ),
    SHIPPED: "from keyferry import aws; aws.dynamodb()",
}


def session() -> boto3.Session:
    return boto3.Session(
        ENVIRON["AWS_ACCESS_KEY_ID"],
        ENVIRON["AWS_SECRET_ACCESS_KEY"],
        ENVIRON["AWS_SESSION_TOKEN"],
        region_name=REGION,
    )


def serve() -> None:
    """Answer whoever comes, until standard input ends; the port is the first line of output."""
    body = json.dumps({"Attributes": ROW}, separators=(",", ":")).encode()
    answer = (
        b"HTTP/1.1 200 OK\r\nServer: Server\r\nDate: Fri, 27 Nov 2026 12:00:00 GMT\r\n"
        b"Content-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n"
        b"Connection: keep-alive\r\nx-amzn-RequestId: %s\r\nx-amz-crc32: %d\r\n\r\n"
    ) % (len(body), b"R" * 52, zlib.crc32(body)) + body

    def answering(peer: socket.socket) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        octets = b""
        while more := peer.recv(65536):
            octets += more
            head, end, rest = octets.partition(b"\r\n\r\n")
            if not end:
                continue
            (length,) = (
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            if len(rest) >= length:
                octets = rest[length:]
                peer.sendall(answer)

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)  # noqa: T201

    def accepting() -> None:
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=answering, args=(peer,), daemon=True).start()

    threading.Thread(target=accepting, daemon=True).start()
    sys.stdin.read()


@contextmanager
def server() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.bench.aws_clients", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


def of_calls(rounds: int) -> dict[str, list[float]]:
    """Milliseconds of one call, for each client and round."""
    spent: dict[str, list[float]] = {name: [] for name in CLIENTS}
    with server() as url:
        calls = {name: make(url) for name, make in CLIENTS.items()}
        expected = calls["boto3, as it comes"]()
        for name, call in calls.items():
            assert call() == expected, name
        for _ in range(rounds):
            for name, call in calls.items():
                started = time.process_time()
                for _ in range(CALLS):
                    call()
                spent[name].append((time.process_time() - started) * 1000 / CALLS)
    return spent


def of_starts(rounds: int) -> dict[str, list[float]]:
    """Milliseconds of one start, for each client and round."""
    spent: dict[str, list[float]] = {name: [] for name in STARTS}
    environment = {**ENVIRON, "PATH": os.environ["PATH"], "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    environment["PYTHONPATH"] = str(Path(aws.__file__).parents[1])
    for number in range(rounds + 1):
        for name, program in STARTS.items():
            timed = (
                f"import time; s = time.process_time(); {program}; print(time.process_time() - s)"
            )
            done = subprocess.run(
                [sys.executable, "-c", timed], env=environment, capture_output=True, check=True
            )
            if number:  # the first one only makes byte code and brings the files into memory
                spent[name].append(float(done.stdout) * 1000)
    return spent


def table(calls: Mapping[str, list[float]], starts: Mapping[str, list[float]]) -> str:
    """Medians, and the medians of the ratios to what is shipped, round by round."""

    def ratio(spent: Mapping[str, list[float]], name: str) -> float:
        pairs = zip(spent[name], spent[SHIPPED], strict=True)
        return statistics.median(one / other for one, other in pairs)

    lines = [
        f"| {name} | {statistics.median(calls[name]):.2f} | {ratio(calls, name):.1f} "
        f"| {statistics.median(starts[name]):.0f} | {ratio(starts, name):.1f} |"
        for name in CLIENTS
    ]
    head = [
        "| client | ms of a call | × shipped | ms of a start | × shipped |",
        "|---|--:|--:|--:|--:|",
    ]
    return "\n".join([*head, *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--write", type=Path, help="page with the markers of the table")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    text = table(of_calls(arguments.rounds), of_starts(arguments.rounds))
    print(text, end="")  # noqa: T201
    if arguments.write:
        page = arguments.write.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        _, after = rest.split(END)
        arguments.write.write_text(before + BEGIN + text + END + after, encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
