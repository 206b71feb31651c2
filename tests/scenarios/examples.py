"""What attackers and bad networks do to sessions: 46 examples, and where each of them is shown.

Each number is a test in this folder (``test_03_…``), or a test elsewhere, or has a line here that
says why there is none. `test_examples` holds the three together.
"""

from __future__ import annotations

from typing import Final

EXAMPLES: Final = {
    # Rotation and races
    1: "two refreshes at once with one token of one device, from separate processes",
    2: "fifty at once: one step, no 5xx, no revocation",
    3: "reply dropped, retried after 1 s, at the end of the grace time, after it",
    4: "retry after the successor was used to refresh",
    5: "retry after the new access token was seen by the key delivery",
    6: "a token two generations old within the grace time of the newest",
    7: "a token five generations old a day later",
    8: "a thief who shadows each refresh by 1 s",
    9: "a thief who shadows each refresh by 7.5 minutes",
    10: "a thief who refreshes first",
    11: "reuse in one session, and the user's other phone",
    12: "a token of a logged-out session replayed",
    13: "two replays that race each other",
    14: "crash after the write, before the reply",
    15: "crash before the write",
    16: "signing fails after the counter has moved",
    17: "DynamoDB throttles or fails",
    18: "an eventually consistent read anywhere on the path",
    19: "a row past its TTL that is not deleted yet",
    20: "a row that TTL has deleted",
    21: "the table restored to an hour earlier",
    22: "absolute expiry after a thousand rotations",
    23: "idle expiry, a second before and after",
    24: "the app is killed before it has stored the new token",
    25: "two regions",
    # Token format
    26: "each bit of a token flipped",
    27: "an old MAC key during and after its rotation",
    28: "one kind of token sent as another",
    29: "tokens in logs, metrics, traces, access logs, error bodies",
    # DPoP, binding, attestation
    30: "no proof, a wrong key, other algorithms, private or foreign keys in the header",
    31: "a wrong key a hundred times",
    32: "one jti twice at once, and with two keys",
    33: "a proof replayed at the edge of its window",
    34: "a bound token used as a bearer token",
    35: "App Check: reused, foreign, expired, out of order",
    36: "App Attest counters and challenges, Play Integrity hashes",
    # Login
    37: "failed logins that must read alike",
    38: "time taken with a legacy hash and with none",
    39: "the store of the guess counters is down",
    40: "foreign, forged, stale and replayed ID tokens",
    # Revocation, keys, errors
    41: "a user disabled, a password changed",
    42: "too many sessions of one user, opened at once",
    43: "signing keys rotated and retired",
    44: "no failure of ours looks like a logout",
    45: "the whole state machine against a model",
    46: "races on separate Lambda workers, not threads",
}

ELSEWHERE: Final = {
    # Fifty cold starts take many seconds: once per run is enough.
    2: "tests/race/test_refresh_race.py::test_fifty_refreshes_of_one_token",
    # Not about sessions, and shown where they belong.
    35: "tests/unit/test_app_check.py::test_invalid",
    40: "tests/unit/test_id_token.py::test_wrong",
}

NOT_YET: Final = {
    36: "Apps are attested by App Check alone: no App Attest or Play Integrity reply is read here.",
    38: "How long a login takes is not measured; no hash of another kind can be imported.",
}
