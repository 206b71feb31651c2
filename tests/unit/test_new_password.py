"""What a password must be when a user chooses it."""

import pytest

from keyferry.errors import RequestRefused
from keyferry.users import new_password
from keyferry.users.invitation import hash_code, new_code
from keyferry.users.new_password import NewPasswordPolicy

POLICY = NewPasswordPolicy(8)


def refusal(
    password: str, username: str = "ana@example.com", policy: NewPasswordPolicy = POLICY
) -> str:
    with pytest.raises(RequestRefused) as refused:
        policy.admit(password, username=username)
    assert refused.value.code == "password_refused"
    assert password not in refused.value.description or len(password) < 3
    return refused.value.description


@pytest.mark.parametrize(
    "password",
    [
        "tr0ubador",
        "correct horse battery staple",
        "пароль-из-леса",
        "🐎🔋📎✅🐄🎺🧦🌂",
        "ana@example.com and more",
        "x7" * 3 + "kq",
        "x" + "y" * 1022 + "z",
    ],
)
def test_good(password: str) -> None:
    assert POLICY.admit(password, username="ana@example.com")


@pytest.mark.parametrize(
    ("password", "says"),
    [
        ("", "at most"),
        ("x" * 1025, "at most"),
        ("é" * 513, "at most"),
        ("\ud800" * 8, "at most"),
        ("seven77", "at least 8"),
        ("ﬁﬁﬁ", "at least 8"),
        ("PassWord", "less common"),
        ("ｐａｓｓｗｏｒｄ", "less common"),
        ("password123", "less common"),
        ("passwordpassword", "less common"),
        ("aaaaaaaaaaaaaaaa", "less common"),
        ("123123123123123", "less common"),
        ("Ana@Example.com", "user name"),
        ("ana@example.comana@example.com", "user name"),
    ],
)
def test_refused(password: str, says: str) -> None:
    assert says in refusal(password)


def test_the_part_before_the_at_sign() -> None:
    assert "user name" in refusal("anastasia", "anastasia@example.com")
    assert "user name" in refusal("Anastasia", "anastasia")


def test_characters_are_counted_not_bytes() -> None:
    assert POLICY.admit("é" * 7 + "ü", username="ana")
    assert "at least 8" in refusal("é" * 3 + "ü")


def test_fifteen_unless_the_stack_says_otherwise() -> None:
    assert NewPasswordPolicy().min_length == 15
    assert "at least 15" in refusal("fourteen chars", policy=NewPasswordPolicy())
    for given, used in [("20", 20), ("8", 8), ("1", 8)]:
        environ = {"KEYFERRY_MIN_PASSWORD_LENGTH": given}
        assert NewPasswordPolicy.from_environ(environ).min_length == used


def test_the_list_is_in_the_form_that_it_is_compared_in() -> None:
    for each in new_password.COMMON:
        assert each == each.casefold().strip()
        assert len(each) >= new_password.SHORTEST_MIN_LENGTH, each
    assert any(len(each) >= 15 for each in new_password.COMMON)


class TestCodes:
    code = new_code(lambda length: bytes(range(length)))

    def test_form(self) -> None:
        assert self.code == "AAAQ-EAYE-AUDA-OCAJ-BIFQ-YDIO-B4IB-CEQT"

    @pytest.mark.parametrize(
        "typed",
        [code, code.lower(), code.replace("-", ""), f"  {code} ", code.replace("-", " ")],
    )
    def test_typed(self, typed: str) -> None:
        assert hash_code(typed) == hash_code(self.code)

    @pytest.mark.parametrize("typed", ["", "x", "AAAQ", "é" * 32, "1" * 32, code + "=", code[:-1]])
    def test_no_code(self, typed: str) -> None:
        assert hash_code(typed) != hash_code(self.code)
