"""Which values look like placeholders, and which must not."""

from __future__ import annotations

import base64
import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyferry_cli.placeholder import MIN_LENGTH, placeholder_in

PLACEHOLDERS = (
    """
changeme|change-me-please|CHANGE_ME_123|your-api-key|YOUR_API_KEY_HERE|yourApiKeyHere|your_openai_key
sk-your-openai-key|paste-your-token-here|insert key here|replace_me|replace-with-real-key|my-secret-key-test
xxx|xxxxxxxxxx|XXXXXXXX|sk-xxxxxxxxxxxx|ghp_xxxxxxxxxxxxxxxxxxxx|AIzaSyXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX
sk-...|sk-proj-...|AIza...|ghp_****************|********|••••••••••|........|00000000-0000-0000-0000-000000000000
<your key>|<GEMINI_API_KEY>|[REDACTED]|${GEMINI}|prefix-${GEMINI}|{{ key }}|Bearer {{token}}|%API_KEY%|__API_KEY__|$GEMINI_KEY
TODO|todo-todo|fixme-todo|example|example-key|test|test-api-key|dummy|dummy-value-1|secret123|placeholder
undefined|null|none|short|1234567|12345678|1234567890|sk-1234567890|abcdefghij|0123456789abcdef
GEMINI_API_KEY|gemini-api-key|GeminiApiKey|AKIAIOSFODNN7EXAMPLE|wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
""".replace("\n", "|")
    .strip("|")
    .split("|")
)

KEYS = [
    "AIzaSyD9tSrke72PouQMnMXa7eZSW0jkFMBWYq2",
    "sk-proj-7hTq2vPzX9mKfR4wLbNc81sYdEjGuA6o_QxTtZ3",
    "sk-ant-api03-R2D2c3po-Kx9_vTq7LmZ4nW8",
    "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
    "sk_test_4eC39HqLyjWDarjtT1zdp7dc",
    "pk.eyJ1IjoidGVzdCIsImEiOiJja2V5In0.Qz8rT1vXyL0pWm",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG0aZ9yX8wV7uT6_sR5qP4oN3mL2kJ1",
    "AKIAJ7QK5TZ2UPOIW3AS",
    "xoxb-263594206564-FGqddMF8t08v8N7Oq4i57vs1",
    "SG.ngeVfQFYQlKU0ufo8x5d1A.TwL2iGABf9DHoTf-09kqeF8tAmbihYzrnopKc",
    "7f9c2ba4e88f827d616045507605853e",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "f47ac10b-58cc-4372-a567-0e02b2c3d479",
    "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ0ZXN0In0.dBjftJeZ4CVP",
    "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----",
    json.dumps({"type": "service_account", "project_id": "example", "private_key": "---...---"}),
    "https://hooks.example.com/services/T024BE7LH/B03QJ5W2A/8sKd92mPqXvL",
    "sk-8347920174620198",
    "correct horse battery staple",
]


@pytest.mark.parametrize("value", PLACEHOLDERS)
def test_placeholders(value: str) -> None:
    reason = placeholder_in(value, "GEMINI_API_KEY")
    assert reason is not None
    assert value not in reason


@pytest.mark.parametrize("value", KEYS)
def test_keys(value: str) -> None:
    assert placeholder_in(value, "GEMINI_API_KEY") is None


@given(
    st.binary(min_size=16, max_size=64), st.sampled_from(["", "sk-", "AIza", "ghp_", "sk_test_"])
)
def test_no_key_of_many_different_bytes(octets: bytes, prefix: str) -> None:
    # Hypothesis likes bytes that are all alike, which a key's are not.
    if len(set(octets)) < 12:
        octets = bytes((each + 37 * n) % 256 for n, each in enumerate(octets))
    spellings = (octets.hex(), base64.b64encode(octets), base64.urlsafe_b64encode(octets))
    for spelling in spellings:
        value = spelling.decode() if isinstance(spelling, bytes) else spelling
        assert placeholder_in(prefix + value, "key") is None


@given(st.uuids(version=4))
def test_no_uuid(value: uuid.UUID) -> None:
    if len(set(value.hex)) > 8:
        assert placeholder_in(str(value), "key") is None


@given(st.text(max_size=200), st.text(max_size=64))
def test_anything_gets_an_answer(value: str, name: str) -> None:
    reason = placeholder_in(value, name)
    assert reason is None or len(value.strip()) < MIN_LENGTH or value.strip() not in reason
