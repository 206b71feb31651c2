"""`keyferry.aws_json`: what it takes from the environment, against botocore."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import BotoCoreError

from keyferry import aws
from keyferry.aws_json.credentials import (
    MAX_BYTES,
    Credentials,
    CredentialSource,
    NoCredentials,
)
from keyferry.aws_json.endpoint import Endpoint, region_of, regional_host
from keyferry.errors import Unavailable
from tests.local_service import LocalService, answering, sending, serving

NOW = 1_795_000_000.0


@pytest.fixture(scope="module")
def resolvers() -> dict[str, Any]:
    session = botocore.session.Session()
    found = {}
    for service in ("dynamodb", "kms"):
        client: Any = session.create_client(
            service, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
        )
        found[service] = client._ruleset_resolver
    return found


class TestEndpoint:
    def test_of_every_region_as_botocore_has_it(self, resolvers: dict[str, Any]) -> None:
        session = botocore.session.Session()
        regions = [
            region
            for partition in session.get_available_partitions()
            for region in session.get_available_regions("dynamodb", partition)
        ]
        assert len(regions) > 30
        compared = 0
        for region, service, fips, both in product(
            regions, ("dynamodb", "kms"), (False, True), (False, True)
        ):
            parameters = {"Region": region, "UseFIPS": fips, "UseDualStack": both}
            try:
                url = resolvers[service]._provider.resolve_endpoint(**parameters).url
            except BotoCoreError:
                continue  # what there is not in that partition
            ours = regional_host(service, region, fips=fips, dual_stack=both)
            assert f"https://{ours}" == url, parameters
            compared += 1
        assert compared > 150

    @pytest.mark.parametrize(
        ("environ", "authority", "secure"),
        [
            ({}, "kms.eu-west-1.amazonaws.com", True),
            ({"AWS_ENDPOINT_URL": ""}, "kms.eu-west-1.amazonaws.com", True),
            ({"AWS_ENDPOINT_URL": "http://127.0.0.1:4566"}, "127.0.0.1:4566", False),
            ({"AWS_ENDPOINT_URL": "http://127.0.0.1:80/"}, "127.0.0.1", False),
            ({"AWS_ENDPOINT_URL": "https://vpce.example.com"}, "vpce.example.com", True),
            ({"AWS_ENDPOINT_URL": "https://vpce.example.com:8443"}, "vpce.example.com:8443", True),
            ({"AWS_ENDPOINT_URL": "http://[::1]:4566"}, "[::1]:4566", False),
            (
                {
                    "AWS_ENDPOINT_URL": "http://a.example",
                    "AWS_ENDPOINT_URL_KMS": "http://b.example",
                },
                "b.example",
                False,
            ),
            (
                {"AWS_ENDPOINT_URL": "http://a.example", "AWS_ENDPOINT_URL_DYNAMODB": "http://c"},
                "a.example",
                False,
            ),
            (
                {
                    "AWS_ENDPOINT_URL": "http://a.example",
                    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
                },
                "kms.eu-west-1.amazonaws.com",
                True,
            ),
            ({"AWS_USE_FIPS_ENDPOINT": "true"}, "kms-fips.eu-west-1.amazonaws.com", True),
            ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "kms.eu-west-1.api.aws", True),
            (
                {"AWS_USE_FIPS_ENDPOINT": "TRUE", "AWS_USE_DUALSTACK_ENDPOINT": "True"},
                "kms-fips.eu-west-1.api.aws",
                True,
            ),
        ],
    )
    def test_by_the_variables(self, environ: dict[str, str], authority: str, secure: bool) -> None:
        found = Endpoint.of("kms", "eu-west-1", environ)
        assert (found.authority, found.secure) == (authority, secure)

    @pytest.mark.parametrize(
        "url",
        [
            "127.0.0.1:4566",
            "ftp://x",
            "http://",
            "http://user:secret@x",
            "http://x/path",
            "http://x?q",
            "http://x#f",
            "http://x:port",
        ],
    )
    def test_what_is_none(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"^((?!secret).)*$"):
            Endpoint.of("kms", "eu-west-1", {"AWS_ENDPOINT_URL": url})

    def test_region(self) -> None:
        assert region_of({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "x-y-1"}) == "eu-west-1"
        assert region_of({"AWS_DEFAULT_REGION": "us-gov-west-1"}) == "us-gov-west-1"
        for bad in ({}, {"AWS_REGION": "evil.example.com/"}, {"AWS_REGION": "a b"}):
            with pytest.raises(ValueError, match="AWS region"):
                region_of(bad)

    def test_the_user_agent_names_the_function(self) -> None:
        environ = {"AWS_SDK_UA_APP_ID": "keyferry-refresh", "AWS_REGION": "eu-west-1"}
        client: Any = aws.dynamodb(environ)
        assert client.user_agent.endswith(" app/keyferry-refresh")


def document(seconds: float, **changes: Any) -> dict[str, Any]:
    expires = datetime.fromtimestamp(NOW + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "AccessKeyId": f"ASIA{int(seconds)}",
        "SecretAccessKey": "container secret",
        "Token": "container token",
        "Expiration": expires,
        **changes,
    }


@contextmanager
def container(*documents: object) -> Iterator[tuple[LocalService, dict[str, str]]]:
    """The endpoint that Lambda gives to a function that is restored from a snapshot."""
    with serving(*(answering(each) for each in documents)) as service:
        yield (
            service,
            {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{service.url}/2021-04-23/credentials",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN": "the word",
            },
        )


class TestContainer:
    def test_asked_once_and_with_the_word(self) -> None:
        with container(document(3600)) as (service, environ):
            source = CredentialSource(environ, lambda: NOW)
            found = source.get()
            assert source.get() is found
        assert (found.access_key, found.secret_key) == ("ASIA3600", "container secret")
        assert (found.token, found.expires_at) == ("container token", NOW + 3600)
        (request,) = service.received
        assert request.head.startswith("GET /2021-04-23/credentials HTTP/1.1\r\n")
        assert request.header("Authorization") == "the word"

    def test_the_environment_goes_first(self) -> None:
        keys = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "x"}
        with container(document(3600)) as (service, environ):
            assert CredentialSource(environ | keys, lambda: NOW).get().access_key == "AKIA"
        assert not service.received

    def test_renewed_before_they_expire(self) -> None:
        now = NOW
        with container(document(3600), document(7200)) as (service, environ):
            source = CredentialSource(environ, lambda: now)
            source.get()
            now = NOW + 2999
            assert source.get().access_key == "ASIA3600"
            now = NOW + 3001
            assert source.get().access_key == "ASIA7200"
            assert len(service.received) == 2

    def test_the_old_ones_serve_while_they_are_good(self) -> None:
        now = NOW
        with container(document(3600), {"no": "credentials"}) as (_, environ):
            source = CredentialSource(environ, lambda: now)
            source.get()
            now = NOW + 3500
            assert source.get().access_key == "ASIA3600"
            now = NOW + 3601
            with pytest.raises(NoCredentials):
                source.get()

    def test_the_word_may_be_in_a_file_that_changes(self, tmp_path: Path) -> None:
        file = tmp_path / "token"
        now = NOW
        with container(document(3600), document(7200)) as (service, environ):
            environ |= {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(file)}
            source = CredentialSource(environ, lambda: now)
            for word, moment in (("first", NOW), ("second", NOW + 3300)):
                file.write_text(word, "utf-8")
                now = moment
                source.get()
            assert [each.header("Authorization") for each in service.received] == [
                "first",
                "second",
            ]

    @pytest.mark.parametrize(
        "uri",
        [
            "http://198.51.100.1/credentials",
            "http://169.254.169.254/latest/meta-data",
            "http://127.0.0.1.example.com/",
            "http://localhost@example.com/",
            "https://127.0.0.1/",
            "file:///etc/passwd",
            "http://127.0.0.1:port/",
            "http://127.0.0.1/a b",
        ],
    )
    def test_nowhere_but_on_this_machine(self, uri: str) -> None:
        source = CredentialSource({"AWS_CONTAINER_CREDENTIALS_FULL_URI": uri}, lambda: NOW)
        with pytest.raises(NoCredentials, match="container endpoint"):
            source.get()

    @pytest.mark.parametrize("word", ["a\r\nHost: evil", "a\nb", "é", "\0"])
    def test_the_word_is_one_header_value(self, word: str) -> None:
        with container(document(3600)) as (service, environ):
            environ |= {"AWS_CONTAINER_AUTHORIZATION_TOKEN": word}
            with pytest.raises(NoCredentials, match="not a header's value"):
                CredentialSource(environ, lambda: NOW).get()
        assert not service.received

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with container(document(3600)) as (_, environ):
            environ |= {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "none")}
            with pytest.raises(NoCredentials, match="file"):
                CredentialSource(environ, lambda: NOW).get()

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            json.dumps({"AccessKeyId": "x"}).encode(),
            json.dumps(document(1, SecretAccessKey=None)).encode(),
            json.dumps(document(1, Token="")).encode(),
            json.dumps(document(1, AccessKeyId="a\r\nb")).encode(),
            json.dumps(document(1, Expiration="soon")).encode(),
            json.dumps(document(1, Expiration="2030-01-01T00:00:00")).encode(),
            json.dumps(document(1, padding="x" * MAX_BYTES)).encode(),
        ],
    )
    def test_what_are_no_credentials(self, body: bytes) -> None:
        with container(body) as (_, environ), pytest.raises(NoCredentials) as failed:
            CredentialSource(environ, lambda: NOW).get()
        assert "secret" not in str(failed.value)

    @pytest.mark.parametrize("status", [301, 302, 404, 500])
    def test_another_status_and_no_redirect(self, status: int) -> None:
        step = answering(document(3600), status=status, Location="http://127.0.0.1:1/")
        with serving(step) as service:
            environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{service.url}/"}
            with pytest.raises(NoCredentials, match="ValueError"):
                CredentialSource(environ, lambda: NOW).get()
            assert len(service.received) == 1

    def test_no_http(self) -> None:
        with serving(sending(b"hello\r\n")) as service:
            environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": service.url}
            with pytest.raises(NoCredentials):
                CredentialSource(environ, lambda: NOW).get()

    def test_none_at_all(self) -> None:
        with pytest.raises(NoCredentials, match="neither"):
            CredentialSource({"AWS_ACCESS_KEY_ID": "half"}, lambda: NOW).get()

    def test_nothing_secret_in_a_repr(self) -> None:
        with container(document(3600)) as (_, environ):
            source = CredentialSource(environ, lambda: NOW)
            shown = repr(source.get()) + repr(source)
        for secret in ("ASIA", "container secret", "container token", "the word"):
            assert secret not in shown

    def test_as_botocore_reads_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        later = datetime.now(UTC).timestamp() - NOW + 3600
        with container(document(later)) as (_, environ):
            for name, value in environ.items():
                monkeypatch.setenv(name, value)
            theirs: Any = botocore.session.Session().get_credentials()
            frozen = theirs.get_frozen_credentials()
            ours = CredentialSource(os.environ, lambda: NOW).get()
        assert (ours.access_key, ours.secret_key, ours.token) == tuple(frozen)[:3]


def test_no_credentials_is_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """503 and not a logout, as it is with boto3."""
    environ: Mapping[str, str] = {"AWS_REGION": "eu-west-1"}
    client = aws.dynamodb(environ)
    with pytest.raises(Unavailable, match="NoCredentials"), aws.calling("dynamodb:GetItem"):
        client.get_item(TableName="T", Key={"id": {"S": "x"}})


def test_credentials_are_no_tuple_to_compare() -> None:
    """Compared one by one they would be compared in a time that tells."""
    assert Credentials("a", "b") != Credentials("a", "b")
