"""What a password must be when a user chooses it (NIST SP 800-63B-4 §3.1.1.2).

A least length, counted in characters; no rules about kinds of characters; and none of the few
passwords that are tried first: common ones, one short piece over and over, the user's own name.
The operator, who sets passwords by hand, is not held to it.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from keyferry.errors import RequestRefused
from keyferry.users.passwords import MAX_PASSWORD_BYTES, normalise

COMMON: Final = frozenset(
    """
    00000000 000000000 0000000000 0123456789 01234567890 11111111 111111111 1111111111 11223344
    112233445566 12121212 123123123 1231231234 123321123 1234512345 12345678 123456781 1234567812345678
    123456789 1234567890 12345678900 1234567890123 12345678901234 123456789012345 1234567890123456
    12345678910 1234567891011 123456789101112 1234567891011121 123456789a 123456789abc 123456789abcdef
    123456789abcdefg 123456789qwerty 1234qwer 1234qwerasdf 1234qwerasdfzxcv 12qwaszx 147258369 1q2w3e4r
    1q2w3e4r5t 1q2w3e4r5t6y 1q2w3e4r5t6y7u 1q2w3e4r5t6y7u8i 1q2w3e4r5t6y7u8i9o 1q2w3e4r5t6y7u8i9o0p
    1qaz2wsx 1qaz2wsx3edc 1qaz2wsx3edc4rfv 1qazxsw2 1qazxsw23edc 22222222 31415926 314159265358979
    55555555 66666666 77777777 87654321 88888888 987654321 9876543210 98765432100 99999999 a1b2c3d4
    a1b2c3d4e5f6 a1b2c3d4e5f6g7h8 aa123456 aa12345678 abc12345 abc123456 abc123456789 abcabcabc abcd1234
    abcd12345678 abcdefgh abcdefghi abcdefghij abcdefghijkl abcdefghijklm abcdefghijklmno
    abcdefghijklmnop abcdefghijklmnopqrstuvwxyz administrator admin123 admin1234 admin12345 admin123456
    adminadmin alexander asdfasdf asdfghjk asdfghjkl asdfghjkl123 baseball basketball blink182 butterfly
    changeme changeme123 changemeplease charlie1 chocolate computer correcthorsebatterystaple
    correct-horse-battery-staple dragon123 elizabeth football football1 fuckyou1 hello123
    helloworld helloworld123 iloveyou iloveyou1 iloveyou123 iloveyou2 iloveyousomuch iloveyouforever
    internet jennifer jonathan letmein1 letmein123 letmeinplease liverpool liverpoolfc manchesterunited
    master123 metallica michael1 michelle microsoft midnight monkey123 mustang1 mypassword mypassword123
    mynameis nicholas nopassword p@ssw0rd p@ssw0rd1 p@ssw0rd123 p@$$w0rd pa$$word pa55word passw0rd
    passw0rd1 passw0rd123 password password! password01 password1 password1! password11 password12
    password123 password123! password1234 password12345 password123456 password1234567 password12345678
    password123456789 passwordpassword pokemon123 princess princess1 qazwsxedc qazwsxedcrfv
    qazwsxedcrfvtgb qazwsxedcrfvtgbyhnujm qq123456 qwaszx12 qweasdzxc qweasdzxc123 qwer1234 qwerqwer
    qwerty12 qwerty123 qwerty1234 qwerty12345 qwerty123456 qwerty1234567 qwerty12345678 qwerty123456789
    qwertyui qwertyuiop qwertyuiop123 qwertyuiop1234 qwertyuiop12345 qwertyuiop123456789
    qwertyuiopasdfgh qwertyuiopasdfghjkl qwertyuiopasdfghjklzxcvbnm qwertyuiopasdf samantha secret123
    snowball spiderman starwars sunshine sunshine1 superman superman1 test1234 test12345 testtest
    thisisapassword thisismypassword trustno1 trustno1trustno1 victoria welcome1 welcome123 welcome1234
    welcometothejungle whatever whatever1 william1 zaq12wsx zaq1zaq1 zxcvbnm1 zxcvbnm123
    zxcvbnmasdfghjkl zxcvbnmasdfghjklqwertyuiop
    """.split()  # noqa: SIM905 -- two hundred lines of quotes and commas would be read by nobody
)
"""Passwords of at least eight characters from the top of the lists of leaked ones, in small
letters; shorter ones are refused for their length."""

SHORTEST_MIN_LENGTH: Final = 8
"""SP 800-63B-4 allows this few only where a second factor is always asked for."""


@dataclass(frozen=True, slots=True)
class NewPasswordPolicy:
    min_length: int = 15

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        return cls(max(int(environ["KEYFERRY_MIN_PASSWORD_LENGTH"]), SHORTEST_MIN_LENGTH))

    def admit(self, password: str, *, username: str) -> bytes:
        """The octets to hash. ``username`` is canonical.

        Raise `RequestRefused` (``password_refused``) with what is wrong, which depends on nothing
        but these two.
        """
        try:
            octets = normalise(password)
        except ValueError:
            raise self._refused(f"at most {MAX_PASSWORD_BYTES} bytes of Unicode text") from None
        normal = octets.decode("utf-8")
        if len(normal) < self.min_length:
            raise self._refused(f"at least {self.min_length} characters")
        folded = unicodedata.normalize("NFKC", normal.casefold())
        piece = _repeated_piece(folded)
        if folded in COMMON or piece in COMMON or len(piece) < SHORTEST_MIN_LENGTH:
            raise self._refused("less common or less regular")
        if username in (folded, piece) or username.partition("@")[0] in (folded, piece):
            raise self._refused("other than the user name")
        return octets

    def _refused(self, what: str) -> RequestRefused:
        return RequestRefused(
            "password_refused", "new password", description=f"The new password must be {what}."
        )


def _repeated_piece(text: str) -> str:
    """The shortest piece that ``text`` is a repetition of, at the worst all of it."""
    # A text that repeats a piece of length n equals itself moved on by n.
    return text[: (text + text).index(text, 1)]
