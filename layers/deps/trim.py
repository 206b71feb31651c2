"""Remove from the installed packages what no function reads; run by the Makefile next to it.

botocore carries the service models of all of AWS: half of the layer, and most of the time that it takes to make a
client goes into listing them and into parsing the endpoint table. The functions talk to two services. Of Powertools they
use the logger and the metrics. `cryptography` brings a compiler of C headers that nothing calls once it is built.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path

SERVICES = ("dynamodb", "kms")
BASE_FILES = ("_retry.json", "endpoints.json", "partitions.json", "sdk-default-configuration.json")
POWERTOOLS_UTILITIES = ("jmespath_utils", "typing")
"""Those that its logger and metrics import. The others are a framework for APIs, queues and caches."""
UNUSED = (
    "aws_lambda_powertools/event_handler",
    "aws_lambda_powertools/middleware_factory",
    "aws_lambda_powertools/metrics/provider/datadog",
    "boto3/data",  # models of boto3.resource, which nothing uses
    "boto3/examples",
    "cffi",  # what is compiled needs `_cffi_backend` alone
    "pycparser",
    "pycparser-*.dist-info",
    "bin",
)
INSTALLER_FILES = ("INSTALLER", "RECORD", "REQUESTED", "WHEEL", "direct_url.json", "top_level.txt")
"""Facts about an installation that no longer holds; licences and METADATA stay."""


def trim(packages: Path) -> None:
    trim_service_models(packages / "botocore" / "data")
    trim_powertools(packages / "aws_lambda_powertools" / "utilities")
    unused = [folder for name in UNUSED for folder in packages.glob(name)]
    for folder in (
        *unused,
        *sorted(packages.rglob("tests")),
        *sorted(packages.rglob("__pycache__")),
    ):
        shutil.rmtree(folder, ignore_errors=True)
    for pattern in ("*.pyi", "test_*.py", "conftest.py"):
        for file in packages.rglob(pattern):
            file.unlink()
    for metadata in packages.glob("*.dist-info"):
        for name in INSTALLER_FILES:
            (metadata / name).unlink(missing_ok=True)


def trim_powertools(utilities: Path) -> None:
    missing = [name for name in POWERTOOLS_UTILITIES if not (utilities / name).is_dir()]
    if missing:
        raise SystemExit(
            f"Powertools no longer has {', '.join(missing)} in {utilities}: adapt {Path(__file__).name}"
        )
    for entry in utilities.iterdir():
        if entry.is_dir() and entry.name not in POWERTOOLS_UTILITIES:
            shutil.rmtree(entry)


def trim_service_models(data: Path) -> None:
    kept = {*SERVICES, *BASE_FILES, *(f"{name}.gz" for name in BASE_FILES)}
    for entry in data.iterdir():
        if entry.name in kept:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    missing = [name for name in (*SERVICES, *BASE_FILES) if not any(data.glob(f"{name}*"))]
    if missing:
        raise SystemExit(
            f"botocore no longer has {', '.join(missing)} in {data}: adapt {Path(__file__).name}"
        )
    trim_endpoints(data)
    for service in (
        SERVICES
    ):  # read by paginators, waiters and the documentation, none of which a function uses
        for example in (data / service).rglob("examples-1.json*"):
            example.unlink()


def trim_endpoints(data: Path) -> None:
    """Keep every partition and region, but only the services that are called."""
    packed = data / "endpoints.json.gz"
    plain = data / "endpoints.json"
    table = json.loads(
        gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
    )
    for partition in table["partitions"]:
        partition["services"] = {
            name: partition["services"][name] for name in SERVICES if name in partition["services"]
        }
    packed.unlink(missing_ok=True)
    plain.write_text(json.dumps(table, separators=(",", ":"), sort_keys=True), encoding="utf-8")


if __name__ == "__main__":
    trim(Path(sys.argv[1]))
