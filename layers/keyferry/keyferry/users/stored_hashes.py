"""Password hashes as they are stored: ours, and those that other systems made.

    $argon2id$v=19$m=65536,t=3,p=4$salt$hash           RFC 9106, PHC string
    $scrypt$ln=16,r=8,p=1$salt$hash                    RFC 7914, PHC string
    $firebase-scrypt$ln=14,r=8$salt$keystream          Firebase Authentication, see `firebase_scrypt`
    pbkdf2_sha256$600000$salt$hash                     RFC 8018 §5.2, as Django writes it
    $2b$12$salthash                                    bcrypt, also $2a$ and $2y$

All but Argon2id at today's parameters are good for one login: its session is written together with
a hash of that kind (`keyferry.sessions.opening`).

Such a string decides how much memory and time its check takes, so one that would take too much is
refused: when it is imported, and again when it is checked.

It also tells, by that time, that there is a user, and of which system. So each has a **decoy**: a
hash that takes the same work and that nobody's password has. A login that fails does the work of
every decoy there is in a stack (`keyferry.users.imported_hashes`), whoever failed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

MAX_MEMORY_BYTES: Final = 256 * 1024 * 1024
"""For one check. The functions that check passwords have at least four times as much (a test of the
template holds them to it), and each of them checks one password at a time."""

# With these, a check takes about two seconds at the most on one vCPU; a login may take 15.
MAX_ARGON2_BYTES: Final = 1024 * 1024 * 1024
"""Memory times iterations."""
MAX_ARGON2_LANES: Final = 4096
"""Lanes times iterations."""
MAX_SCRYPT_BYTES: Final = MAX_MEMORY_BYTES
"""Memory times parallelisation: the lanes run one after the other."""
MAX_PBKDF2_ITERATIONS: Final = 2_000_000
MAX_BCRYPT_COST: Final = 14

MAX_STORED_LENGTH: Final = 1024

_MIN_HASH_BYTES: Final = 16
"""A shorter one would be found by guessing at the hash."""
_MAX_PART_BYTES: Final = 256

_BCRYPT_PASSWORD_BYTES: Final = 72

_DECOY_HASH: Final = "A" * 43
_DECOY: Final = f"$YXJnb24yaWQgc2FsdCEhIQ${_DECOY_HASH}"
"""A salt, and what no password is known to have with it."""

_GRADED: Final = re.compile(r"pbkdf2_sha256\$|\$2b\$")

Read = tuple[Callable[[bytes], bool], str]
"""The members of a `StoredHash`."""

_AES_KEY_BYTES: Final = 32
_KEYSTREAM_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class StoredHash:
    matches: Callable[[bytes], bool] = field(repr=False)
    """Whether a password is the one that was hashed."""
    decoy: str
    """What takes as long to check; of all hashes that take equally long the same text."""


def parse(stored: str) -> StoredHash:
    """Raise `ValueError` for what is none of the forms above, or would cost too much to check. Its
    text may be shown: it says nothing of the hash."""
    if len(stored) > MAX_STORED_LENGTH or not stored.isascii():
        raise ValueError("not a supported password hash")
    for form, read in _FORMS.items():
        found = re.fullmatch(form, stored)
        if found:
            return StoredHash(*read(stored, *found.groups()))
    raise ValueError("not a supported password hash")


def firebase_scrypt(
    *,
    password_hash: str,
    salt: str,
    signer_key: str,
    salt_separator: str,
    rounds: int,
    mem_cost: int,
) -> str:
    """What is stored for a user of Firebase Authentication, of the members (base64) that an export
    of users and the project's password hash parameters have.

    Firebase encrypts the project's signer key under what scrypt makes of the password. So hash XOR
    signer key is the bare keystream of that encryption: it tells a right password as well as the
    hash does, and the signer key, which is a secret of the whole project, is stored nowhere here.

    Raise `ValueError` when they are not what they should be.
    """
    hashed, key = _any_base64(password_hash), _any_base64(signer_key)
    if len(hashed) != len(key) or len(key) < _KEYSTREAM_BYTES:
        raise ValueError("the hash and the signer key are not of one length")
    keystream = bytes(ours ^ theirs for ours, theirs in zip(hashed, key, strict=True))
    whole_salt = _any_base64(salt) + _any_base64(salt_separator)
    stored = "$".join(
        (
            "",
            "firebase-scrypt",
            f"ln={mem_cost},r={rounds}",
            _encode(whole_salt),
            _encode(keystream[:_KEYSTREAM_BYTES]),
        )
    )
    parse(stored)
    return stored


def _argon2id(
    stored: str, memory: str, iterations: str, lanes: str, salt: str, hashed: str
) -> Read:
    size = _number(memory) * 1024
    if size > MAX_MEMORY_BYTES or size * _number(iterations) > MAX_ARGON2_BYTES:
        raise ValueError("Argon2id: the parameters ask for too much memory or time")
    # RFC 9106 §3.1
    if not (1 <= _number(lanes) <= 64 and _number(iterations) >= 1):
        raise ValueError("Argon2id: parameters")
    # Every lane of every iteration is four threads that are started and joined.
    if _number(lanes) > 1 and _number(lanes) * _number(iterations) > MAX_ARGON2_LANES:
        raise ValueError("Argon2id: the parameters ask for too much memory or time")
    if size < 8 * 1024 * _number(lanes) or len(_decode(salt)) < 8:
        raise ValueError("Argon2id: parameters")
    _require_hash(_decode(hashed))

    def matches(password: bytes) -> bool:
        try:
            Argon2id.verify_phc_encoded(password, stored)
        except InvalidKey:
            return False
        return True

    return matches, f"$argon2id$v=19$m={memory},t={iterations},p={lanes}{_DECOY}"


def _scrypt(_: str, log_n: str, block: str, lanes: str, salt: str, hashed: str) -> Read:
    derive = _scrypt_deriver(_number(log_n), _number(block), _number(lanes), _decode(salt))
    wanted = _require_hash(_decode(hashed))
    decoy = f"$scrypt$ln={log_n},r={block},p={lanes}{_DECOY}"
    return lambda password: hmac.compare_digest(derive(password, len(wanted)), wanted), decoy


def _firebase_scrypt(_: str, log_n: str, block: str, salt: str, keystream: str) -> Read:
    derive = _scrypt_deriver(_number(log_n), _number(block), 1, _decode(salt))
    wanted = _require_hash(_decode(keystream))
    counter = bytes(16)

    def matches(password: bytes) -> bool:
        key = derive(password, _AES_KEY_BYTES)
        # CTR with a constant start, as Firebase has it: the key is never used for anything else.
        encryptor = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
        return hmac.compare_digest(encryptor.update(bytes(len(wanted))), wanted)

    return matches, f"$firebase-scrypt$ln={log_n},r={block}{_DECOY}"


def _scrypt_deriver(
    log_n: int, block: int, lanes: int, salt: bytes
) -> Callable[[bytes, int], bytes]:
    # RFC 7914 §6. log_n is bounded before the shift.
    if not (1 <= log_n <= 30 and block >= 1 and lanes >= 1):
        raise ValueError("scrypt: parameters")
    size = 128 * block * (1 << log_n)
    if size > MAX_MEMORY_BYTES or size * lanes > MAX_SCRYPT_BYTES:
        raise ValueError("scrypt: the parameters ask for too much memory or time")
    if log_n >= 16 * block:  # RFC 7914 §2: N < 2^(128 * r / 8)
        raise ValueError("scrypt: parameters")
    return lambda password, length: Scrypt(
        salt=salt, length=length, n=1 << log_n, r=block, p=lanes
    ).derive(password)


def _pbkdf2(_: str, iterations: str, salt: str, hashed: str) -> Read:
    count = _number(iterations)
    wanted = _require_hash(_any_base64(hashed))
    blocks = -(-len(wanted) // hashlib.sha256().digest_size)  # each takes all the iterations
    if count < 1 or count * blocks > MAX_PBKDF2_ITERATIONS:
        raise ValueError("PBKDF2: the iterations ask for too much time")
    octets = salt.encode("ascii")  # Django's salt is text

    def matches(password: bytes) -> bool:
        derived = hashlib.pbkdf2_hmac("sha256", password, octets, count, len(wanted))
        return hmac.compare_digest(derived, wanted)

    return matches, _pbkdf2_decoy(count * blocks)


def _bcrypt(stored: str, cost: str) -> Read:
    if not 4 <= int(cost) <= MAX_BCRYPT_COST:
        raise ValueError("bcrypt: the cost asks for too much time, or is below 4")

    def matches(password: bytes) -> bool:
        # The C implementations stop at a NUL, so no password that has one was ever hashed whole.
        if b"\0" in password:
            return False
        import bcrypt  # native code that most cold starts have no use for

        # bcrypt reads 72 bytes, and so did whoever made this hash.
        return bcrypt.checkpw(password[:_BCRYPT_PASSWORD_BYTES], stored.encode("ascii"))

    return matches, _bcrypt_decoy(int(cost))


def _pbkdf2_decoy(iterations: int) -> str:
    return f"pbkdf2_sha256${iterations}$decoy${_DECOY_HASH}="


def _bcrypt_decoy(cost: int) -> str:
    return f"$2b${cost:02}$decoydecoydecoydecoyd." + "." * 31


def remaining(own: str, decoys: Iterable[str]) -> list[str]:
    """What is left of the work of all ``decoys``, and of ``own``, when that of ``own`` is done.

    The work of PBKDF2 grows with its iterations and that of bcrypt doubles with its cost: of each
    of these two the largest one counts, so users of many ages cost no more than one of them.
    """
    left = [decoy for decoy in decoys if decoy != own and not _GRADED.match(decoy)]
    done, largest = _iterations([own]), _iterations(decoys)
    if done < largest:
        left.append(_pbkdf2_decoy(largest - done))
    cost, highest = _costs([own]), _costs(decoys)
    if cost is None:
        left += [_bcrypt_decoy(highest)] if highest is not None else []
    else:
        # 2^c + 2^c + 2^(c+1) + … + 2^(highest-1) = 2^highest
        left += [_bcrypt_decoy(each) for each in range(cost, highest or 0)]
    return left


def together(decoys: Iterable[str]) -> frozenset[str]:
    """``decoys`` without those that another one stands for, in `remaining`."""
    kept = {decoy for decoy in decoys if not _GRADED.match(decoy)}
    if iterations := _iterations(decoys):
        kept.add(_pbkdf2_decoy(iterations))
    if (cost := _costs(decoys)) is not None:
        kept.add(_bcrypt_decoy(cost))
    return frozenset(kept)


def _iterations(decoys: Iterable[str]) -> int:
    found = (re.match(r"pbkdf2_sha256\$(\d+)\$", decoy) for decoy in decoys)
    return max((int(each[1]) for each in found if each), default=0)


def _costs(decoys: Iterable[str]) -> int | None:
    found = (re.match(r"\$2b\$(\d\d)\$", decoy) for decoy in decoys)
    return max((int(each[1]) for each in found if each), default=None)


_BASE64: Final = r"([A-Za-z0-9+/]{1,342})"

_FORMS: Final[dict[str, Callable[..., Read]]] = {
    rf"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\${_BASE64}\${_BASE64}": _argon2id,
    rf"\$scrypt\$ln=(\d+),r=(\d+),p=(\d+)\${_BASE64}\${_BASE64}": _scrypt,
    rf"\$firebase-scrypt\$ln=(\d+),r=(\d+)\${_BASE64}\${_BASE64}": _firebase_scrypt,
    r"pbkdf2_sha256\$(\d+)\$([!-#%-~]{1,128})\$([A-Za-z0-9+/]{1,342}={0,2})": _pbkdf2,
    # $2x$ marks hashes of a faulty implementation, which no other one can check.
    # The last character of the salt has four spare bits, which must be zero.
    r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}": _bcrypt,
}


def _number(digits: str) -> int:
    """Raise `ValueError` beyond 32 bits, and for a second spelling of the same number."""
    if len(digits) > 10 or str(int(digits)) != digits or int(digits) >= 1 << 32:
        raise ValueError("a parameter is not a number of 32 bits")
    return int(digits)


def _encode(octets: bytes) -> str:
    """The base64 of PHC strings: without padding."""
    return base64.b64encode(octets).decode("ascii").rstrip("=")


def _decode(text: str) -> bytes:
    octets = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    if _encode(octets) != text:
        raise ValueError("base64 with spare bits")
    return octets


def _any_base64(text: str) -> bytes:
    """Base64 as other systems write it: of either alphabet, with or without padding."""
    plain = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    octets = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    if len(octets) > _MAX_PART_BYTES:
        raise ValueError("longer than expected")
    return octets


def _require_hash(octets: bytes) -> bytes:
    if not _MIN_HASH_BYTES <= len(octets) <= _MAX_PART_BYTES:
        raise ValueError("the hash is too short or too long")
    return octets
