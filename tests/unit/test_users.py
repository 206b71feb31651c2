"""User names and passwords."""

import os

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from keyferry.users import passwords
from keyferry.users.model import canonical_username


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("alice", "alice"),
        (" Alice ", "alice"),
        ("ALICE@Example.COM", "alice@example.com"),
        ("ａｌｉｃｅ", "alice"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("e\u0301lise", "\u00e9lise"),
        ("ﬁn", "fin"),
    ],
)
def test_names_that_look_alike_are_one(typed: str, canonical: str) -> None:
    assert canonical_username(typed) == canonical
    assert canonical_username(canonical) == canonical


@pytest.mark.parametrize(
    "typed", ["", "  ", "a\0b", "a\nb", "a\u200bb", "a\u202eb", "\ud800", "x" * 255]
)
def test_names_that_are_none(typed: str) -> None:
    with pytest.raises(ValueError, match="user name"):
        canonical_username(typed)


class TestPasswords:
    phc = passwords.hash_password(b"correct horse", random=os.urandom)

    def test_parameters_are_owasps(self) -> None:
        assert self.phc.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        assert not passwords.needs_rehash(self.phc)

    def test_right_and_wrong(self) -> None:
        assert passwords.verify_password(b"correct horse", self.phc)
        assert not passwords.verify_password(b"correct horsf", self.phc)
        assert not passwords.verify_password(b"", self.phc)

    def test_nobody(self) -> None:
        """No password opens an unknown user, and the work done for one is the real work."""
        assert not passwords.verify_password(b"anything", None)
        assert not passwords.needs_rehash(passwords._NOBODY)
        assert passwords._NOBODY.count("$") == self.phc.count("$")
        assert len(passwords._NOBODY) == len(self.phc)

    def test_salts_differ(self) -> None:
        assert passwords.hash_password(b"correct horse", random=os.urandom) != self.phc

    def test_weaker_parameters_are_seen(self) -> None:
        weak = Argon2id(
            salt=os.urandom(16), length=32, iterations=1, lanes=1, memory_cost=8192
        ).derive_phc_encoded(b"x")
        assert passwords.needs_rehash(weak)
        assert passwords.verify_password(b"x", weak)

    @pytest.mark.parametrize(("typed", "octets"), [("e\u0301", "\u00e9"), ("ﬁ", "fi")])
    def test_two_keyboards_one_password(self, typed: str, octets: str) -> None:
        assert passwords.normalise(typed) == octets.encode()

    @pytest.mark.parametrize(
        ("typed", "forms"),
        [
            ("plain", 1),
            ("\u00e9", 1),
            ("ﬁsh", 2),
            ("e\u0301", 2),
            pytest.param("ｆ" * 400, 1, id="1,200 bytes as typed"),
        ],
    )
    def test_forms(self, typed: str, forms: int) -> None:
        read = passwords.Typed.read(typed)
        assert len(read.forms) == forms
        assert read.normal == passwords.normalise(typed)
        assert typed not in repr(read)

    @pytest.mark.parametrize("iterations", [passwords.ITERATIONS, 3])
    def test_a_hash_of_what_was_typed_elsewhere(self, iterations: int) -> None:
        """Also at today's parameters: the first login makes it one of the normal form."""
        typed = passwords.Typed.read("ﬁsh and chips")
        bare = Argon2id(
            salt=os.urandom(16),
            length=32,
            iterations=iterations,
            lanes=1,
            memory_cost=passwords.MEMORY_KIB,
        ).derive_phc_encoded("ﬁsh and chips".encode())
        assert typed.opens(bare)
        assert not passwords.Typed.read("fish and chips").opens(bare)
        upgraded = passwords.stronger(typed, bare, random=os.urandom)
        assert upgraded is not None
        assert passwords.Typed.read("fish and chips").opens(upgraded)
        assert typed.opens(upgraded)
        assert passwords.stronger(typed, upgraded, random=os.urandom) is None

    def test_nobody_has_any_form(self) -> None:
        assert not passwords.Typed.read("ﬁsh").opens(None)

    @pytest.mark.parametrize("password", ["", "x" * 1025, "é" * 513, "\ud800"])
    def test_refused(self, password: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 -- UnicodeEncodeError is one
            passwords.normalise(password)

    def test_nothing_is_cut_off(self) -> None:
        """bcrypt would look at the first 72 bytes."""
        long = passwords.normalise("x" * 1024)
        phc = passwords.hash_password(long, random=os.urandom)
        assert passwords.verify_password(long, phc)
        assert not passwords.verify_password(long[:-1] + b"y", phc)
