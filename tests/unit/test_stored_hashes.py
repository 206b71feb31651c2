"""Password hashes of other systems, against the vectors that their authors published."""

import hashlib
import os
import time
from base64 import b64decode, b64encode
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from hypothesis import given
from hypothesis import strategies as st

from keyferry.users import passwords, stored_hashes


def phc(octets: bytes) -> str:
    return b64encode(octets).decode().rstrip("=")


def django(password: bytes, salt: str, iterations: int, length: int = 32) -> str:
    digest = hashlib.pbkdf2_hmac("sha256", password, salt.encode(), iterations, length)
    return f"pbkdf2_sha256${iterations}${salt}${b64encode(digest).decode()}"


FIREBASE: dict[str, Any] = {
    # README of github.com/firebase/scrypt
    "password_hash": "lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ==",
    "salt": "42xEC+ixf3L2lw==",
    "signer_key": "jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA==",
    "salt_separator": "Bw==",
    "rounds": 8,
    "mem_cost": 14,
}

VECTORS = [
    # RFC 7914 §12
    (
        b"password",
        "$scrypt$ln=10,r=8,p=16$"
        + phc(b"NaCl")
        + "$"
        + phc(
            bytes.fromhex(
                "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
                "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"
            )
        ),
    ),
    (
        b"pleaseletmein",
        "$scrypt$ln=14,r=8,p=1$"
        + phc(b"SodiumChloride")
        + "$"
        + phc(
            bytes.fromhex(
                "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
                "d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887"
            )
        ),
    ),
    # passlib's documentation
    (
        b"password",
        "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E",
    ),
    # RFC 7914 §11
    (
        b"Password",
        "pbkdf2_sha256$80000$NaCl$"
        + b64encode(
            bytes.fromhex(
                "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56"
                "a1d425a1225833549adb841b51c9b3176a272bdebba1d078478f62b397f33c8d"
            )
        ).decode(),
    ),
    # passlib's tests of Django's format
    (
        b"not a password",
        "pbkdf2_sha256$10000$kjVJaVz6qsnJ$5yPHw3rwJGECpUf70daLGhOrQ5+AMxIJdz1c3bqK1Rs=",
    ),
    # crypt_blowfish (Openwall) and jBCrypt
    (b"U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
    (b"U*U*U", "$2a$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a"),
    (b"abc", "$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i"),
    (b"a", "$2a$08$cfcvVd2aQ8CMvoMpP2EBfeodLEkkFJ9umNEfPD18.hUF62qqlC/V."),
    (b"\xa3", "$2b$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq"),
    (b"\xa3", "$2y$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq"),
    (b"\xff\xff\xa3", "$2y$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e"),
    (
        b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
        b"chars after 72 are ignored",
        "$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui",
    ),
    (b"user1password", stored_hashes.firebase_scrypt(**FIREBASE)),
]


@pytest.mark.parametrize(("password", "stored"), VECTORS)
def test_published_vectors(password: bytes, stored: str) -> None:
    assert passwords.verify_password(password, stored)
    assert not passwords.verify_password(b"x" + password, stored)
    assert not passwords.verify_password(b"x", stored)
    assert passwords.needs_rehash(stored), "so that the first login upgrades it"


@pytest.mark.parametrize(("password", "stored"), VECTORS)
def test_a_decoy_takes_the_work_and_has_nothing_of_the_hash(password: bytes, stored: str) -> None:
    decoy = stored_hashes.parse(stored).decoy
    assert stored_hashes.parse(decoy).decoy == decoy
    assert not passwords.verify_password(password, decoy)
    assert stored.split("$")[-1][-20:] not in decoy
    assert stored.split("$")[1:3] == decoy.split("$")[1:3] or stored.startswith(("$2", "pbkdf2"))


def work(decoys: list[str]) -> list[tuple[str, int]]:
    """How much of each kind, as its parameters say it."""
    done: Counter[str] = Counter()
    for decoy in decoys:
        kind, first, second, *_ = [*decoy.split("$"), ""]
        if kind == "pbkdf2_sha256":
            done[kind] += int(first)
        elif first == "2b":
            done[first] += 1 << int(second)
        else:
            done[f"{first}${second}"] += 1
    return sorted(done.items())


def test_whoever_fails_does_the_work_of_all() -> None:
    stored = {
        *(django(b"x", "salt", count) for count in (100, 720, 1000)),
        *(
            f"$2b${cost}$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
            for cost in ("04", "07")
        ),
        f"$scrypt$ln=14,r=8,p=1${SALT}${HASH}",
        f"$scrypt$ln=15,r=8,p=1${SALT}${HASH}",
        f"$firebase-scrypt$ln=14,r=8${SALT}${HASH}",
        f"$argon2id$v=19$m=1024,t=2,p=1${SALT}${HASH}",
        passwords._NOBODY,
    }
    decoys = {stored_hashes.parse(each).decoy for each in stored}
    brief = stored_hashes.together(decoys)
    assert len(brief) == len(decoys) - 3
    alike = {
        str(work([own, *stored_hashes.remaining(own, among)]))
        for own in decoys
        for among in (decoys, brief)
    }
    assert len(alike) == 1
    assert "('2b', 128)" in alike.pop()


def test_where_nobody_was_imported_nothing_is_left_to_do() -> None:
    own = stored_hashes.parse(passwords._NOBODY).decoy
    assert stored_hashes.remaining(own, {own}) == []


def test_argon2id_of_other_parameters() -> None:
    stored = Argon2id(
        salt=os.urandom(16), length=32, iterations=3, lanes=4, memory_cost=1024
    ).derive_phc_encoded(b"right")
    assert passwords.verify_password(b"right", stored)
    assert not passwords.verify_password(b"wrong", stored)


class TestFirebase:
    def test_the_signer_key_is_stored_nowhere(self) -> None:
        stored = stored_hashes.firebase_scrypt(**FIREBASE)
        key = b64decode(FIREBASE["signer_key"])
        *_, keystream = stored.split("$")
        assert phc(key) not in stored
        assert b64decode(keystream + "=") not in key
        assert len(stored) < 100

    def test_the_keystream_is_what_firebase_encrypts_with(self) -> None:
        """Made the other way round, by the definition: no line of the product in it."""
        derived = hashlib.scrypt(
            b"user1password",
            salt=b64decode(FIREBASE["salt"]) + b64decode(FIREBASE["salt_separator"]),
            n=2**14,
            r=8,
            p=1,
            dklen=64,
            maxmem=64 * 1024 * 1024,
        )
        cipher = Cipher(algorithms.AES(derived[:32]), modes.CTR(bytes(16))).encryptor()
        hashed = cipher.update(b64decode(FIREBASE["signer_key"]))
        assert hashed == b64decode(FIREBASE["password_hash"])

    def test_url_alphabet_of_an_export(self) -> None:
        """`firebase auth:export` writes base64url, the console base64."""
        as_exported = {
            name: FIREBASE[name].replace("+", "-").replace("/", "_")
            for name in ("password_hash", "salt")
        }
        stored = stored_hashes.firebase_scrypt(**{**FIREBASE, **as_exported})
        assert stored == stored_hashes.firebase_scrypt(**FIREBASE)

    @pytest.mark.parametrize(
        "change",
        [
            {"password_hash": "AAAA"},
            {"password_hash": "é"},
            {"signer_key": ""},
            {"mem_cost": 25},
            {"rounds": 0},
            {"salt": "A" * 2000},
            {"salt": "=", "salt_separator": ""},
        ],
    )
    def test_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 -- of several kinds
            stored_hashes.firebase_scrypt(**{**FIREBASE, **change})


SALT, HASH = phc(b"s" * 16), phc(b"h" * 32)

TOO_MUCH = {
    "memory of Argon2id": f"$argon2id$v=19$m=262145,t=1,p=1${SALT}${HASH}",
    "time of Argon2id": f"$argon2id$v=19$m=262144,t=5,p=1${SALT}${HASH}",
    "2 TiB": f"$argon2id$v=19$m=2147483648,t=1,p=1${SALT}${HASH}",
    "memory of scrypt": f"$scrypt$ln=19,r=8,p=1${SALT}${HASH}",
    "N of scrypt": f"$scrypt$ln=4000000000,r=8,p=1${SALT}${HASH}",
    "block of scrypt": f"$scrypt$ln=1,r=4000000000,p=1${SALT}${HASH}",
    "lanes of scrypt": f"$scrypt$ln=14,r=8,p=1073741823${SALT}${HASH}",
    "RFC 7914's vector of 1 GiB": f"$scrypt$ln=20,r=8,p=1${SALT}${HASH}",
    "memory of Firebase's": f"$firebase-scrypt$ln=22,r=8${SALT}${HASH}",
    "PBKDF2": f"pbkdf2_sha256$2000001$salt${HASH}=",
    "bcrypt": "$2b$15$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
    "bcrypt 31": "$2b$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
}

MALFORMED = {
    "empty": "",
    "a password": "correct horse battery staple",
    "MD5": "5f4dcc3b5aa765d61d8327deb882cf99",
    "argon2i": f"$argon2i$v=19$m=1024,t=2,p=1${SALT}${HASH}",
    "Argon2 of 2013": f"$argon2id$v=16$m=1024,t=2,p=1${SALT}${HASH}",
    "no time": f"$argon2id$v=19$m=1024,t=0,p=1${SALT}${HASH}",
    "less memory than lanes": f"$argon2id$v=19$m=8,t=1,p=2${SALT}${HASH}",
    "a short salt": f"$argon2id$v=19$m=1024,t=1,p=1${phc(b'short')}${HASH}",
    "a hash of 4 bytes": f"$argon2id$v=19$m=1024,t=1,p=1${SALT}$AAAAAA",
    "an empty hash": f"$scrypt$ln=4,r=8,p=1${SALT}$",
    "a short scrypt hash": f"$scrypt$ln=4,r=8,p=1${SALT}$AAAA",
    "spare bits": f"$scrypt$ln=4,r=8,p=1$AB${HASH}",
    "one base64 character": f"$scrypt$ln=4,r=8,p=1$A${HASH}",
    "no block": f"$scrypt$ln=4,r=0,p=1${SALT}${HASH}",
    "N too large for r": f"$scrypt$ln=16,r=1,p=1${SALT}${HASH}",
    "two spellings": f"$scrypt$ln=04,r=8,p=1${SALT}${HASH}",
    "digits of another script": f"$scrypt$ln=٤,r=8,p=1${SALT}${HASH}",
    "$7$": "$7$C6..../....SodiumChloride$kBGj9fHznVYFQMEn/qDCfrDevf9YDtcDdKvEqHJLV8D",
    "no iterations": f"pbkdf2_sha256$0$salt${HASH}=",
    "a short PBKDF2 hash": "pbkdf2_sha256$1$salt$AAAA",
    "SHA-1": "pbkdf2_sha1$1$salt$AAAA",
    "$2x$": "$2x$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e",
    "bcrypt 3": "$2b$03$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
    "bcrypt with spare bits": "$2b$05$CCCCCCCCCCCCCCCCCCCCCCE5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
    "bcrypt cut off": "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOe",
    "a line more": f"$scrypt$ln=4,r=8,p=1${SALT}${HASH}\n",
    "long": "$scrypt$ln=4,r=8,p=1$" + "A" * 5000 + f"${HASH}",
    "of today, cut off": f"$argon2id$v=19$m=19456,t=2,p=1${SALT}$",
    "of today, nonsense": "$argon2id$v=19$m=19456,t=2,p=1$$",
}


@pytest.mark.parametrize("stored", [*TOO_MUCH.values(), *MALFORMED.values()], ids=str)
def test_what_can_not_be_checked_is_a_wrong_password_and_the_usual_work(stored: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- base64 and numbers have their own
        stored_hashes.parse(stored)
    started = time.process_time()
    assert not passwords.verify_password(b"anything", stored)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("stored", TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_the_reason_says_what_is_too_much_and_nothing_of_the_hash(stored: str) -> None:
    with pytest.raises(ValueError, match=r"^(Argon2id|scrypt|PBKDF2|bcrypt): |32 bits") as refused:
        stored_hashes.parse(stored)
    assert HASH not in str(refused.value)


@pytest.mark.parametrize(
    "stored",
    [
        f"$argon2id$v=19$m=65536,t=3,p=4${SALT}${HASH}",  # RFC 9106 §4, second choice
        f"$argon2id$v=19$m=262144,t=4,p=1${SALT}${HASH}",
        f"$scrypt$ln=17,r=8,p=1${SALT}${HASH}",  # OWASP
        f"$scrypt$ln=18,r=8,p=1${SALT}${HASH}",
        f"pbkdf2_sha256$1200000$salt${HASH}=",  # Django 6.0
        "$2b$14$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
    ],
)
def test_what_is_in_use_is_taken(stored: str) -> None:
    stored_hashes.parse(stored)


def test_bcrypt_of_a_password_with_nul() -> None:
    stored = "$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i"
    assert passwords.verify_password(b"abc", stored)
    assert not passwords.verify_password(b"abc\0def", stored)


def test_bcrypt_is_imported_for_a_bcrypt_hash_only() -> None:
    import subprocess
    import sys

    program = (
        "import sys; from keyferry.users import passwords as p;"
        "p.verify_password(b'x', None); assert 'bcrypt' not in sys.modules;"
        "p.verify_password(b'x', sys.argv[1]); assert 'bcrypt' in sys.modules"
    )
    stored = "$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i"
    folder = stored_hashes.__file__.rsplit("/keyferry/users/", 1)[0]
    subprocess.run(
        [sys.executable, "-c", program, stored], check=True, env={"PYTHONPATH": folder}, timeout=60
    )


ALPHABET = st.sampled_from("$argon2idscryptfirebase-pbkdf2_sha256v=19m,lnrp0123456789ABCabc+/.é\n")


@given(st.text(ALPHABET, max_size=200) | st.text(max_size=100))
def test_parse_has_one_exception(stored: str) -> None:
    with suppress(ValueError):
        stored_hashes.parse(stored)


@given(
    password=st.binary(min_size=1, max_size=64),
    salt=st.from_regex(r"[A-Za-z0-9]{1,22}", fullmatch=True),
)
def test_django_round_trip(password: bytes, salt: str) -> None:
    stored = django(password, salt, 2)
    assert passwords.verify_password(password, stored)
    assert not passwords.verify_password(password + b"x", stored)
