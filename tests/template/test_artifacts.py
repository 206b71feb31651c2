"""What `sam build` makes for Lambda: complete, importable under its Python, and nothing else inside."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from keyferry_cli.local.environments import ROOT, environment_program, exclusive, make_environments
from tests.bench import layer_weight

pytestmark = pytest.mark.xdist_group("artifacts")

FUNCTIONS = {
    "LoginFunction": "login",
    "RefreshFunction": "refresh",
    "DeliverKeyFunction": "deliver_key",
    "ProxyFunction": "proxy",
    "SessionsFunction": "sessions",
    "MfaFunction": "mfa",
    "AccountFunction": "account",
    "AuthorizerFunction": "authorizer",
    "DiscoveryFunction": "discovery",
    "OpenApiFunction": "open_api",
    "RotateKeyringFunction": "rotate_keyring",
    "OperatorFunction": "operator",
}
DEVELOPMENT = re.compile(
    r"(^|/)(tests?|conftest\.py|test_[^/]*\.py|keyferry_cli|keyferry_client"
    r"|Makefile|requirements[^/]*|pyproject\.toml|trim\.py|\.git[^/]*|\.cache)(/|$)"
)
DEVELOPMENT_PACKAGES = {
    "pytest",
    "hypothesis",
    "moto",
    "mypy",
    "ruff",
    "typer",
    "rich",
    "httpx",
    "joserfc",
    "jwcrypto",
    "pip",
    "setuptools",
    "ministack",
    "samtranslator",
}
AARCH64 = 183  # e_machine of an ELF file

IMPORT_EVERY_HANDLER = """
import importlib.util, json, os, sys
common = dict(os.environ)
for path, environment in json.load(sys.stdin).items():
    os.environ.clear()
    os.environ.update(common, **environment)  # only what the template gives to this function
    specification = importlib.util.spec_from_file_location(f"handler_{len(sys.modules)}", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert callable(module.lambda_handler), path
print(sys.version_info[:2])
"""


LOADED = """
import importlib, json, os, sys
sys.path[:0] = sys.argv[1:]
importlib.import_module("handler")
print(json.dumps(sorted(sys.modules)))
"""

SLOW_TO_LOAD = {"boto3", "botocore.session", "urllib3", "jwt", "aws_xray_sdk", "http.client"}
"""What a function that answers requests has no use for before it is asked for something special."""

MAY_LOAD = {
    "proxy": {"http.client"},
    "operator": {"boto3", "botocore.session", "urllib3", "http.client"},
    "rotate_keyring": {"boto3", "botocore.session", "urllib3", "http.client"},
}
WITHOUT_PYDANTIC = {"login", "refresh", "deliver_key", "authorizer", "discovery"}


def find_python_313() -> str | None:
    """A real interpreter: the shim of a version manager answers only for versions it was told to."""
    candidates = [shutil.which("python3.13"), os.environ.get("KEYFERRY_TARGET_PYTHON")]
    candidates += [str(path) for path in Path.home().glob(".pyenv/versions/3.13.*/bin/python3.13")]
    if sys.version_info[:2] == (3, 13):
        candidates.append(sys.executable)
    for candidate in filter(None, candidates):
        asked = [candidate, "-c", "import sys; sys.exit(sys.version_info[:2] != (3, 13))"]
        if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
            return candidate
    return None


PYTHON_313 = find_python_313()


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder of a real `sam build` for Lambda; SAM's cache makes a second one quick."""
    make_environments(("sam",), root=ROOT)
    cache = ROOT / ".cache" / "sam" / "lambda"
    cache.mkdir(parents=True, exist_ok=True)
    target = ROOT / ".cache" / "lambda" / "build"
    command = [str(environment_program("sam", "sam")), "build", "--template-file=template.yaml"]
    command += [f"--build-dir={target}", "--cached", f"--cache-dir={cache}", "--parallel"]
    settings = {
        **{name: value for name, value in os.environ.items() if name != "KEYFERRY_LAYER_TARGET"},
        "SAM_CLI_TELEMETRY": "0",
        "AWS_DEFAULT_REGION": "us-east-1",
        "KEYFERRY_PYTHON": sys.executable,
    }
    if PYTHON_313:
        settings["KEYFERRY_TARGET_PYTHON"] = PYTHON_313
    with exclusive(cache / "lock"):
        done = subprocess.run(
            command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.relative_to(folder).as_posix()


@pytest.mark.parametrize("artifact", [*FUNCTIONS, "DepsLayer", "KeyferryLayer"])
def test_no_test_or_development_code(built: Path, artifact: str) -> None:
    assert [name for name in files(built / artifact) if DEVELOPMENT.search(name)] == []


@pytest.mark.parametrize("artifact", list(FUNCTIONS))
def test_a_function_is_its_handler_alone(built: Path, artifact: str) -> None:
    data = {"openapi.json"} if artifact == "OpenApiFunction" else set()
    assert set(files(built / artifact)) == {"handler.py", *data}


def test_the_document_that_is_served_is_the_committed_one(built: Path) -> None:
    served = (built / "OpenApiFunction" / "openapi.json").read_text(encoding="utf-8")
    assert served == (ROOT / "docs" / "openapi.json").read_text(encoding="utf-8")


def test_the_package_layer_is_the_package(built: Path) -> None:
    layer = built / "KeyferryLayer"
    assert {path.name for path in layer.iterdir()} == {"python"}
    assert {path.name for path in (layer / "python").iterdir()} == {"keyferry"}
    source = ROOT / "layers" / "keyferry" / "keyferry"
    wanted = {f"python/keyferry/{path.relative_to(source)}" for path in source.rglob("*.py")}
    assert {name for name in files(layer) if name.endswith(".py")} == wanted


def test_the_deps_layer_is_what_the_lock_says(built: Path) -> None:
    layer = built / "DepsLayer"
    assert {path.name for path in layer.iterdir()} == {"python"}
    folders = {path.name for path in (layer / "python").iterdir()}
    assert {"aws_lambda_powertools", "boto3", "botocore", "cryptography", "pydantic"} <= folders
    assert folders.isdisjoint(DEVELOPMENT_PACKAGES)
    services = {p.name for p in (layer / "python" / "botocore" / "data").iterdir() if p.is_dir()}
    assert services == {"dynamodb", "kms"}


def test_native_code_is_for_lambda(built: Path) -> None:
    libraries = list((built / "DepsLayer").rglob("*.so"))
    assert libraries
    for library in libraries:
        header = library.read_bytes()[:20]
        assert header[:4] == b"\x7fELF"
        assert int.from_bytes(header[18:20], "little") == AARCH64, library
        assert re.search(r"cpython-313|abi3", library.name), library


def test_the_unpacked_layers_fit_into_a_function(built: Path) -> None:
    """Lambda's limit is 250 MB for a function with its layers; size is also cold-start time."""
    size = sum(
        path.stat().st_size
        for layer in ("DepsLayer", "KeyferryLayer")
        for path in (built / layer).rglob("*")
        if path.is_file()
    )
    assert size < 40 * 1024 * 1024


def test_the_layer_has_nothing_that_no_function_uses(built: Path) -> None:
    packages = built / "DepsLayer" / "python"
    for unused in (
        "aws_lambda_powertools/event_handler",
        "aws_lambda_powertools/utilities/data_classes",
        "aws_lambda_powertools/utilities/parser",
        "botocore/data/s3",
        "boto3/data",
        "cffi",
        "pycparser",
    ):
        assert not (packages / unused).exists(), unused


def test_every_package_of_the_layer_has_a_reason_to_be_there(built: Path) -> None:
    """The table of docs/performance.md says which, and fails for one that it does not know."""
    weighed = layer_weight.weigh(built / "DepsLayer" / "python")
    assert {each.package for each in weighed} == layer_weight.REASONS.keys() - {"keyferry"}


@pytest.mark.skipif(PYTHON_313 is None, reason="no Python 3.13 on this machine to compile with")
@pytest.mark.parametrize("layer", ["DepsLayer", "KeyferryLayer"])
def test_layers_ship_byte_code(built: Path, layer: str) -> None:
    """A layer is read-only: what is not compiled here is compiled at every cold start."""
    for source in (built / layer / "python").rglob("*.py"):
        compiled = source.parent / "__pycache__" / f"{source.stem}.cpython-313.pyc"
        assert compiled.is_file(), source


@pytest.fixture(scope="session")
def deps_on_host(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The third-party layer built for this machine: the one for Lambda holds arm64 code."""
    assert PYTHON_313 is not None
    deps = ROOT / ".cache" / "lambda" / "deps-on-host"
    source = ROOT / "layers" / "deps"
    of = b"".join((source / name).read_bytes() for name in ("requirements.txt", "trim.py"))
    stamp = deps / "made-of"
    if not stamp.exists() or stamp.read_bytes() != of:
        shutil.rmtree(deps, ignore_errors=True)
        venv = tmp_path_factory.mktemp("python-313") / "venv"
        subprocess.run([PYTHON_313, "-m", "venv", venv], check=True)
        subprocess.run(
            ["make", "build-DepsLayer", f"ARTIFACTS_DIR={deps}"],
            cwd=source,
            env={
                **os.environ,
                "KEYFERRY_LAYER_TARGET": "host",
                "KEYFERRY_PYTHON": str(venv / "bin" / "python"),
            },
            check=True,
            capture_output=True,
        )
        stamp.write_bytes(of)
    return deps / "python"


@pytest.mark.skipif(PYTHON_313 is None, reason="no Python 3.13 on this machine")
def test_every_handler_imports_under_the_python_of_lambda(
    built: Path, deps_on_host: Path, template: dict[str, Any], tmp_path: Path
) -> None:
    functions = {
        str(built / artifact / "handler.py"): environment_of(template, artifact)
        for artifact in FUNCTIONS
    }
    paths = [str(built / "KeyferryLayer" / "python"), str(deps_on_host)]
    program = f"import sys; sys.path[:0] = {paths!r}\n{IMPORT_EVERY_HANDLER}"
    done = in_python_313(program, tmp_path, stdin=json.dumps(functions))
    assert done.startswith("(3, 13)"), done


@pytest.mark.skipif(PYTHON_313 is None, reason="no Python 3.13 on this machine")
@pytest.mark.parametrize("artifact", list(FUNCTIONS))
def test_a_cold_start_loads_what_it_needs(
    built: Path, deps_on_host: Path, template: dict[str, Any], tmp_path: Path, artifact: str
) -> None:
    folder = FUNCTIONS[artifact]
    paths = [built / artifact, built / "KeyferryLayer" / "python", deps_on_host]
    environment = environment_of(template, artifact)
    done = in_python_313(LOADED, tmp_path, *map(str, paths), environment=environment)
    loaded = set(json.loads(done))
    assert loaded & SLOW_TO_LOAD <= MAY_LOAD.get(folder, set())
    assert folder not in WITHOUT_PYDANTIC or "pydantic" not in loaded


def in_python_313(
    program: str,
    folder: Path,
    *arguments: str,
    stdin: str = "",
    environment: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """What ``program`` prints."""
    assert PYTHON_313 is not None
    done = subprocess.run(
        # -I and -S: nothing of this machine's site-packages, nothing of this repository
        [PYTHON_313, "-I", "-S", "-B", "-W", "error", "-c", program, *arguments],
        input=stdin,
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            **LAMBDA_ENVIRONMENT,
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LAMBDA_ENVIRONMENT = {
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
}


def environment_of(template: dict[str, Any], function: str) -> dict[str, str]:
    """A function's variables as CloudFormation would resolve them on AWS, with made-up names."""
    parameters = template["Parameters"]

    def resolved(value: Any) -> str | None:
        match value:
            case {"Fn::If": ["IsEmulated", _, otherwise]}:
                return resolved(otherwise)
            case {"Ref": "AWS::NoValue"}:
                return None
            case {"Ref": name}:
                return str(parameters[name]["Default"]) if name in parameters else f"name-of-{name}"
            case {"Fn::GetAtt": [name, "Arn"]}:
                return f"arn:aws:kms:us-east-1:000000000000:key/{name}"
            case {"Fn::Sub": text}:
                return str(text).replace("${AWS::StackName}", "stack")
            case {"Fn::FindInMap": [mapping, {"Ref": "Stage"}, key]}:
                return str(template["Mappings"][mapping]["dev"][key])
            case str():
                return value
            case _:
                raise AssertionError(value)

    variables = template["Resources"][function]["Properties"]["Environment"]["Variables"]
    found = {name: resolved(value) for name, value in variables.items()}
    return {name: value for name, value in found.items() if value is not None}
