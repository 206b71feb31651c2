"""Run ministack with what it lacks of API Gateway and IAM; executed by the emulator environment's own interpreter.

Two amendments, each made by wrapping one function of the locked version; a version without that function is refused.

- API Gateway passes the id of the caller's client key to the function. ministack checks the key but does not pass it on.
- KMS offers the encryption context to IAM conditions (`kms:EncryptionContext:<key>`, `kms:EncryptionContextKeys`).
  ministack enforces the policies of roles when AUTH=true, but knows no such condition keys and would deny everything.
"""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def amend(module_name: str, function_name: str, amendment: Callable[..., Any]) -> None:
    module = importlib.import_module(module_name)
    original = getattr(module, function_name, None)
    if original is None:
        raise SystemExit(f"{module_name} has no {function_name} any more: adapt {__file__}")
    setattr(module, function_name, amendment(original))


def with_client_key_id(build_event: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-mapping-template-reference.html"""
    gateway = importlib.import_module("ministack.services.apigateway_v1")

    def build(*arguments: Any, **options: Any) -> dict[str, Any]:
        event = build_event(*arguments, **options)
        sent = gateway._api_key_from_request(event["headers"])
        key = gateway._resolve_api_key(sent)
        event["requestContext"]["identity"]["apiKey"] = sent or None
        event["requestContext"]["identity"]["apiKeyId"] = key["id"] if key else None
        return event

    return build


def with_encryption_context(condition_keys: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html"""

    def keys(service: str, action: str, body: bytes, parameters: dict[str, Any]) -> dict[str, Any]:
        found = condition_keys(service, action, body, parameters)
        if service != "kms":
            return found
        request = json.loads(body or b"{}")
        context = request.get("EncryptionContext") or {}
        if context:
            found["kms:EncryptionContextKeys"] = list(context)
        if "KeyPairSpec" in request:
            found["kms:DataKeyPairSpec"] = request["KeyPairSpec"]
        return found | {f"kms:EncryptionContext:{name}": value for name, value in context.items()}

    return keys


def main() -> None:
    amend("ministack.services.apigateway_v1", "_build_lambda_event_v1", with_client_key_id)
    amend("ministack.core.iam_actions", "request_tag_context", with_encryption_context)
    importlib.import_module("ministack.app").main()


if __name__ == "__main__":
    main()
