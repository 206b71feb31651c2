"""The floor: a refresh and a delivery all by hand, with `cryptography` and the standard library.

The same cryptography as the product, the same one DynamoDB call, signed and sent over a kept
connection, the same answer, one log line and one metric. No library beyond that, no classes for
requests or rows, no route table. It answers the requests that the benchmarks make and is no server:
what it leaves out of the product's checks are those of malformed input.

The benchmarks check its answers as they check the product's, and a session goes from one to the
other and back.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import socket
import sys
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SHA256 = ec.ECDSA(hashes.SHA256())
P256 = ec.SECP256R1()
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
IDLE, DAY = 7 * 86_400, 86_400

CONDITION = (
    "generation = :presented AND #status = :active AND jkt = :jkt AND client_id = :client_id"
    " AND secret_hash = :secret_hash AND idle_expires_at > :now AND absolute_expires_at > :now"
    " AND generation < :max_generation"
)
UPDATE = (
    "SET generation = :successor, rotated_at = :now, idle_expires_at = :idle_expires_at,"
    " expires_at = :expires_at, mac_kid = :mac_kid, last_request = :request_id"
)


class Refused(Exception):
    """The floor knows no error answers: the benchmarks do not ask it for any."""


def b64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class Aws:
    """DynamoDB over one kept connection, with a hand-made AWS Signature Version 4.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """

    host: str
    port: int
    access_key: str
    secret_key: str
    region: str = "us-east-1"
    bare: bool = False
    """Over a socket of its own, in place of `http.client`."""

    _connection: http.client.HTTPConnection | None = None
    _socket: socket.socket | None = None
    _day: str = ""
    _signing_key: bytes = b""

    def call(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(request, separators=(",", ":")).encode()
        target = f"DynamoDB_20120810.{operation}"
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        day = stamp[:8]
        if day != self._day:
            key = b"AWS4" + self.secret_key.encode()
            for part in (day, self.region, "dynamodb", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._day, self._signing_key = day, key
        host = f"{self.host}:{self.port}"
        signed = "content-type;host;x-amz-date;x-amz-target"
        canonical = (
            "POST\n/\n\ncontent-type:application/x-amz-json-1.0\n"
            f"host:{host}\nx-amz-date:{stamp}\nx-amz-target:{target}\n\n{signed}\n"
            + hashlib.sha256(body).hexdigest()
        )
        scope = f"{day}/{self.region}/dynamodb/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        signature = hmac.new(self._signing_key, text.encode(), "sha256").hexdigest()
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Date": stamp,
            "X-Amz-Target": target,
            "Authorization": f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, "
            f"SignedHeaders={signed}, Signature={signature}",
        }
        status, answer = (self._by_socket if self.bare else self._by_client)(headers, body)
        if status != 200:
            raise Refused(answer.decode())
        told: dict[str, Any] = json.loads(answer)
        return told

    def _by_client(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self.host, self.port, timeout=3)
        self._connection.request("POST", "/", body, headers)
        response = self._connection.getresponse()
        return response.status, response.read()

    def _by_socket(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Nothing but what this one server answers."""
        if self._socket is None:
            self._socket = socket.create_connection((self.host, self.port), timeout=3)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST / HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n{lines}"
        self._socket.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        received = self._socket.recv(65536)
        while b"\r\n\r\n" not in received:
            received += self._socket.recv(65536)
        told, _, answer = received.partition(b"\r\n\r\n")
        length = int(told.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(answer) < length:
            answer += self._socket.recv(65536)
        return int(told[9:12]), answer

    def close(self) -> None:
        for each in (self._connection, self._socket):
            if each is not None:
                each.close()


@dataclass
class Floor:
    """What a warm function has in memory, and the two answers."""

    aws: Aws
    issuer: str
    clients: dict[str, str]
    signing: tuple[str, ec.EllipticCurvePrivateKey]
    public: dict[str, ec.EllipticCurvePublicKey]
    mac_kid: str
    mac_keys: dict[str, bytes]
    nonce_key: bytes
    tables: dict[str, str]
    values: dict[str, str]
    """The keys of the vault in clear, as a warm function holds them."""
    _document: str = ""
    _manifest: list[dict[str, Any]] = field(default_factory=list)

    def refresh(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        now = int(time.time())
        headers = {name.lower(): each[0] for name, each in event["multiValueHeaders"].items()}
        client_id = self.clients[event["requestContext"]["identity"]["apiKeyId"]]
        form = dict(pair.split("=") for pair in event["body"].split("&"))
        if form["grant_type"] != "refresh_token":
            raise Refused("grant_type")
        raw = unb64(form["refresh_token"][4:])
        message, kid = raw[:-32], b64(raw[1:9])
        mac = hmac.digest(self.mac_keys[kid], b"keyferry refresh token" + message, "sha256")
        if not hmac.compare_digest(mac, raw[-32:]):
            raise Refused("MAC")
        sub, sid = b64(raw[9:25]), b64(raw[25:41])
        generation, secret = int.from_bytes(raw[41:45], "big"), raw[45:61]
        jkt, _ = self._proof(headers["dpop"], "POST", f"{self.issuer}/v1/token", now, None)
        row = self.aws.call(
            "UpdateItem",
            {
                "TableName": self.tables["sessions"],
                "Key": {"sub": {"S": sub}, "sid": {"S": sid}},
                "ConditionExpression": CONDITION,
                "UpdateExpression": UPDATE,
                "ExpressionAttributeNames": {"#status": "status"},
                "ExpressionAttributeValues": {
                    ":presented": {"N": str(generation)},
                    ":active": {"S": "active"},
                    ":jkt": {"S": jkt},
                    ":client_id": {"S": client_id},
                    ":secret_hash": {
                        "B": base64.b64encode(
                            hashlib.sha256(b"keyferry session secret" + secret).digest()
                        ).decode()
                    },
                    ":now": {"N": str(now)},
                    ":max_generation": {"N": str(2**32 - 1)},
                    ":successor": {"N": str(generation + 1)},
                    ":idle_expires_at": {"N": str(now + IDLE)},
                    ":expires_at": {"N": str(now + IDLE + DAY)},
                    ":mac_kid": {"S": self.mac_kid},
                    ":request_id": {"S": context.aws_request_id},
                },
                "ReturnValues": "ALL_NEW",
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            },
        )["Attributes"]
        self._log(context, event, "refresh", "RefreshRotated", outcome="rotated", sid=sid)
        absolute = int(row["absolute_expires_at"]["N"])
        lifetime = min(900 - 27 * os.urandom(1)[0] // 255, absolute - now)
        access = self._sign(
            "at+jwt",
            {
                "iss": self.issuer,
                "aud": self.issuer,
                "sub": sub,
                "sid": sid,
                "client_id": client_id,
                "scope": row["scope"]["S"],
                "roles": json.loads(row["roles"]["S"]),
                "amr": json.loads(row["amr"]["S"]),
                "jti": b64(os.urandom(16)),
                "iat": now,
                "exp": now + lifetime,
                "cnf": {"jkt": jkt},
            },
        )
        successor = (
            b"\1" + unb64(self.mac_kid) + raw[9:41] + (generation + 1).to_bytes(4, "big") + secret
        )
        mac = hmac.digest(
            self.mac_keys[self.mac_kid], b"keyferry refresh token" + successor, "sha256"
        )
        body = {
            "access_token": access,
            "token_type": "DPoP",
            "expires_in": lifetime,
            "refresh_token": f"kfr_{b64(successor + mac)}",
            "refresh_expires_in": min(int(row["idle_expires_at"]["N"]), absolute) - now,
            "session_id": sid,
            "scope": row["scope"]["S"],
        }
        return self._answer(json.dumps(body, separators=(",", ":")), "application/json", now, {})

    def deliver(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        now = int(time.time())
        headers = {name.lower(): each[0] for name, each in event["multiValueHeaders"].items()}
        client_id = self.clients[event["requestContext"]["identity"]["apiKeyId"]]
        scheme, _, token = headers["authorization"].partition(" ")
        head, payload, signature = token.split(".")
        header = json.loads(unb64(head))
        if (scheme, header["alg"], header["typ"]) != ("DPoP", "ES256", "at+jwt"):
            raise Refused("header")
        self._verify(self.public[header["kid"]], f"{head}.{payload}", signature)
        claims = json.loads(unb64(payload))
        if claims["iss"] != self.issuer or claims["aud"] != self.issuer or now >= claims["exp"]:
            raise Refused("claims")
        jkt, jti = self._proof(headers["dpop"], "GET", f"{self.issuer}/v1/keys", now, token)
        if jkt != claims["cnf"]["jkt"]:
            raise Refused("cnf")
        sub, sid = claims["sub"], claims["sid"]
        tables = self.tables
        found = self.aws.call(
            "BatchGetItem",
            {
                "RequestItems": {
                    tables[name]: {"Keys": [key], "ConsistentRead": True}
                    for name, key in (
                        ("sessions", {"sub": {"S": sub}, "sid": {"S": sid}}),
                        ("users", {"sub": {"S": sub}}),
                        ("vault", {"id": {"S": "MANIFEST"}}),
                    )
                }
            },
        )["Responses"]
        (session,), (user,) = found[tables["sessions"]], found[tables["users"]]
        (manifest,) = found[tables["vault"]]
        if (
            session["status"]["S"] != "active"
            or session["jkt"]["S"] != jkt
            or session["client_id"]["S"] != client_id
            or int(session["idle_expires_at"]["N"]) <= now
            or int(session["absolute_expires_at"]["N"]) <= now
            or user["status"]["S"] != "active"
        ):
            raise Refused("session")
        if manifest["document"]["B"] != self._document:
            self._document = manifest["document"]["B"]
            document = zlib.decompress(base64.b64decode(self._document))
            self._manifest = sorted(json.loads(document), key=lambda entry: str(entry["name"]))
        roles, platform = set(json.loads(user["roles"]["S"])), session["platform"]["S"]
        granted = [
            entry
            for entry in self._manifest
            if not roles.isdisjoint(entry["policy"]["roles"])
            and platform in entry["policy"]["platforms"]
            and entry["policy"]["rollout"] == 10_000
            and entry["upstream"] is None
        ]
        x, y = session["encryption_x"]["S"], session["encryption_y"]["S"]
        kid = b64(hashlib.sha256(_ec_members(x, y).encode()).digest())
        versions = {entry["name"]: entry["current"]["number"] for entry in granted}
        terms = [kid, [[*each, 0, 300] for each in versions.items()]]
        etag = b64(hashlib.sha256(json.dumps(terms).encode()).digest()[:16])
        signed = self._sign(
            "keyferry-keys+jwt",
            {
                "iss": self.issuer,
                "sub": sub,
                "aud": client_id,
                "sid": sid,
                "iat": now,
                "proof_jti": jti,
                "encryption_kid": kid,
                "min_fetch_interval": 0,
                "keys": {
                    entry["name"]: {
                        "value": self.values[entry["name"]],
                        "version": entry["current"]["number"],
                        "min_version": entry["min_version"],
                        "cache_seconds": entry["cache_seconds"],
                    }
                    for entry in granted
                },
                "refused": {},
            },
        )
        body = _encrypt(signed.encode(), x, y, kid)
        self._log(
            context,
            event,
            "keys",
            "KeysDelivered",
            action="delivered",
            keys=versions,
            refused={},
            sub=sub,
            sid=sid,
            client_id=client_id,
            jkt=jkt,
            platform=platform,
            app_version=session["app_version"]["S"],
            attested=False,
        )
        told = {"ETag": f'W/"{etag}"', "Vary": "Accept"}
        return self._answer(body, "application/jose", now, told)

    def _proof(
        self, proof: str, method: str, url: str, now: int, access_token: str | None
    ) -> tuple[str, str]:
        """The thumbprint of the key that made the proof, and its ``jti``."""
        head, payload, signature = proof.split(".")
        header = json.loads(unb64(head))
        jwk = header["jwk"]
        if (header["typ"], header["alg"], jwk["kty"], jwk["crv"], "d" in jwk) != (
            *("dpop+jwt", "ES256", "EC", "P-256"),
            False,
        ):
            raise Refused("proof header")
        point = b"\4" + unb64(jwk["x"]) + unb64(jwk["y"])
        key = ec.EllipticCurvePublicKey.from_encoded_point(P256, point)
        self._verify(key, f"{head}.{payload}", signature)
        claims = json.loads(unb64(payload))
        if claims["htm"] != method or claims["htu"] != url:
            raise Refused("proof of another request")
        if access_token is not None and not hmac.compare_digest(
            claims["ath"], b64(hashlib.sha256(access_token.encode()).digest())
        ):
            raise Refused("ath")
        nonce = unb64(claims["nonce"])
        if not hmac.compare_digest(self._nonce_mac(nonce[:5]), nonce[5:]):
            raise Refused("nonce")
        if now - int.from_bytes(nonce[:5], "big") >= 300 and abs(now - claims["iat"]) > 60:
            raise Refused("old proof")
        members = _ec_members(jwk["x"], jwk["y"])
        return b64(hashlib.sha256(members.encode()).digest()), claims["jti"]

    @staticmethod
    def _verify(key: ec.EllipticCurvePublicKey, signing_input: str, signature: str) -> None:
        """Raise `cryptography.exceptions.InvalidSignature`."""
        raw = unb64(signature)
        r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        key.verify(encode_dss_signature(r, s), signing_input.encode(), SHA256)

    def _sign(self, typ: str, claims: dict[str, Any]) -> str:
        kid, key = self.signing
        header = json.dumps({"alg": "ES256", "typ": typ, "kid": kid}, separators=(",", ":"))
        payload = json.dumps(claims, separators=(",", ":"))
        signing_input = f"{b64(header.encode())}.{b64(payload.encode())}"
        r, s = decode_dss_signature(key.sign(signing_input.encode(), SHA256))
        return f"{signing_input}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def _nonce_mac(self, stamp: bytes) -> bytes:
        return hmac.digest(self.nonce_key, b"keyferry dpop nonce" + stamp, "sha256")[:11]

    def _answer(
        self, body: str, content_type: str, now: int, headers: dict[str, str]
    ) -> dict[str, Any]:
        stamp = now.to_bytes(5, "big")
        return {
            "statusCode": 200,
            "headers": {
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
                "Pragma": "no-cache",
                "DPoP-Nonce": b64(stamp + self._nonce_mac(stamp)),
                "Content-Type": content_type,
                **headers,
            },
            "body": body,
            "isBase64Encoded": False,
        }

    @staticmethod
    def _log(context: Any, event: dict[str, Any], message: str, metric: str, **fields: Any) -> None:
        """One line of JSON, and the metric in CloudWatch's embedded format."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now))
        line = {
            "level": "INFO",
            "message": message,
            "timestamp": f"{stamp},{int(now * 1000) % 1000:03}+0000",
            "service": "keyferry",
            "cold_start": False,
            "function_name": context.function_name,
            "function_memory_size": str(context.memory_limit_in_mb),
            "function_arn": context.invoked_function_arn,
            "function_request_id": context.aws_request_id,
            "api_request_id": event["requestContext"]["requestId"],
            **fields,
        }
        metrics = [
            {
                "Namespace": "Keyferry",
                "Dimensions": [["service"]],
                "Metrics": [{"Name": metric, "Unit": "Count"}],
            }
        ]
        counted = {
            "_aws": {"Timestamp": int(now * 1000), "CloudWatchMetrics": metrics},
            "service": "keyferry",
            metric: [1.0],
        }
        for each in (line, counted):
            sys.stdout.write(json.dumps(each, separators=(",", ":")) + "\n")


def _ec_members(x: str, y: str) -> str:
    """What RFC 7638 hashes."""
    return f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'


def _encrypt(plaintext: bytes, x: str, y: str, kid: str) -> str:
    """A compact JWE: ECDH-ES on P-256 with A256GCM (RFC 7518 §4.6)."""
    point = b"\4" + unb64(x) + unb64(y)
    recipient = ec.EllipticCurvePublicKey.from_encoded_point(P256, point)
    scalar = int.from_bytes(os.urandom(32), "big") % (P256_ORDER - 1) + 1
    ephemeral = ec.derive_private_key(scalar, P256)
    public = ephemeral.public_key().public_numbers()
    epk = {
        "kty": "EC",
        "crv": "P-256",
        "x": b64(public.x.to_bytes(32, "big")),
        "y": b64(public.y.to_bytes(32, "big")),
    }
    header = {"alg": "ECDH-ES", "enc": "A256GCM", "cty": "JWT", "kid": kid, "epk": epk}
    protected = b64(json.dumps(header, separators=(",", ":")).encode())
    shared = ephemeral.exchange(ec.ECDH(), recipient)
    info = b"\0\0\0\7A256GCM\0\0\0\0\0\0\0\0\0\0\1\0"
    cek = hashlib.sha256(b"\0\0\0\1" + shared + info).digest()
    nonce = os.urandom(12)
    sealed = AESGCM(cek).encrypt(nonce, plaintext, protected.encode())
    return f"{protected}..{b64(nonce)}.{b64(sealed[:-16])}.{b64(sealed[-16:])}"
