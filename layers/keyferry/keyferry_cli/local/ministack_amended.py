"""Run ministack with what it lacks of API Gateway, IAM and Lambda; executed by the emulator environment's own interpreter.

Each amendment wraps one function of the locked version; a version without that function is refused at the start.

- API Gateway passes the id of the caller's client key to the function. ministack checks the key but keeps it to itself.
- The throttles of single methods in a usage plan: ministack's CloudFormation stores them under names that its gateway
  does not read.
- Gateway responses: ministack serves them, but does not take them from an OpenAPI body, which is where SAM puts them.
- An update of a REST API keeps its id, and with that its URL. ministack makes a new one when the OpenAPI body has changed.
- An API key can be disabled. A patch says that as the text "false", which ministack takes for true.
- The use of a usage plan is told. ministack counts the requests of each key for its quota, and has no GetUsage.
- KMS offers the encryption context to IAM conditions (`kms:EncryptionContext:<key>`, `kms:EncryptionContextKeys`).
  ministack enforces the policies of roles when AUTH=true, but knows no such condition keys and would deny everything.
- DynamoDB offers the partition key of a request to IAM conditions (`dynamodb:LeadingKeys`); without it such a condition
  is taken for met.
- The principal of a role's session is the role in IAM conditions (`aws:PrincipalArn`); ministack offers the session.
- The audit log lists refused calls too, as CloudTrail does; ministack's has only those that reached their service.
- A layer is unpacked once and shared, as on Lambda. ministack unpacks every layer again for every worker, so that fifty
  simultaneous requests to a cold function would write gigabytes and wait for a minute.
- Workers step back behind the emulator. On AWS, fifty functions that start at once do not take the processor away from
  DynamoDB; on two cores they do, until their calls time out.
"""

from __future__ import annotations

import datetime
import importlib
import io
import json
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GATEWAY = "ministack.services.apigateway_v1"
PROVISIONERS = "ministack.services.cloudformation.provisioners"

Response = tuple[int, dict[str, str], bytes]
"""Of ministack: status, headers, body."""


def amend(module_name: str, function_name: str, amendment: Callable[..., Any]) -> None:
    module = importlib.import_module(module_name)
    original = getattr(module, function_name, None)
    if original is None:
        raise SystemExit(f"{module_name} has no {function_name} any more: adapt {__file__}")
    setattr(module, function_name, amendment(original))


def with_client_key_id(build_event: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-mapping-template-reference.html"""
    gateway = importlib.import_module(GATEWAY)

    def build(*arguments: Any, **options: Any) -> dict[str, Any]:
        event = build_event(*arguments, **options)
        sent = gateway._api_key_from_request(event["headers"])
        key = gateway._resolve_api_key(sent)
        event["requestContext"]["identity"] |= {
            "apiKey": sent or None,
            "apiKeyId": key["id"] if key else None,
        }
        return event

    return build


def with_method_throttles(
    plan_body: Callable[..., dict[str, Any]],
) -> Callable[..., dict[str, Any]]:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-properties-apigateway-usageplan-apistage.html"""

    def build(properties: dict[str, Any]) -> dict[str, Any]:
        body = plan_body(properties)
        for stage in body["apiStages"]:
            stage["throttle"] = {
                method: {
                    "rateLimit": limits.get("RateLimit"),
                    "burstLimit": limits.get("BurstLimit"),
                }
                for method, limits in stage["throttle"].items()
            }
        return body

    return build


def with_gateway_responses(import_api: Callable[..., str]) -> Callable[..., str]:
    """https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-swagger-extensions-gateway-responses.html"""
    gateway = importlib.import_module(GATEWAY)

    def build(specification: dict[str, Any], *arguments: Any, **options: Any) -> str:
        api = import_api(specification, *arguments, **options)
        for kind, response in specification.get(
            "x-amazon-apigateway-gateway-responses", {}
        ).items():
            status, _, body = gateway._put_gateway_response(api, kind, response)
            if status >= 400:
                raise ValueError(f"gateway response {kind}: {body!r}")
        return api

    return build


def with_rest_api_kept(
    update: Callable[..., tuple[str, dict[str, str]]],
) -> Callable[..., tuple[str, dict[str, str]]]:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-apigateway-restapi.html"""
    gateway, provisioners = importlib.import_module(GATEWAY), importlib.import_module(PROVISIONERS)

    def keep(
        api: str, old: dict[str, Any], new: dict[str, Any], stack: str, name: str
    ) -> tuple[str, dict[str, str]]:
        if new.get("Body") == old.get("Body"):
            return update(api, old, new, stack, name)
        # What the body says is imported as another API and taken over; stages and deployments stay.
        imported, _ = provisioners._apigw_rest_api_create(name, new, stack)
        for of_apis in (
            gateway._rest_apis,
            gateway._resources,
            gateway._authorizers_v1,
            gateway._models,
            gateway._gateway_responses,
            gateway._request_validators,
        ):
            of_apis[api] = of_apis.get(imported, {})
        gateway._rest_apis[api]["id"] = api
        gateway._delete_rest_api(imported)
        return api, provisioners._apigw_rest_api_attrs(api)

    # It is not found by its name, but in this table.
    provisioners._RESOURCE_HANDLERS["AWS::ApiGateway::RestApi"]["update"] = keep
    return keep


def with_disabled_keys(update_key: Callable[..., Response]) -> Callable[..., Response]:
    """https://docs.aws.amazon.com/apigateway/latest/api/API_UpdateApiKey.html"""

    def update(key_id: str, patch: dict[str, Any]) -> Response:
        operations = [
            operation | {"value": operation.get("value") == "true"}
            if operation.get("path") == "/enabled"
            else operation
            for operation in patch.get("patchOperations", [])
        ]
        return update_key(key_id, patch | {"patchOperations": operations})

    return update


def with_usage(
    handle_request: Callable[..., Awaitable[Response]],
) -> Callable[..., Awaitable[Response]]:
    """https://docs.aws.amazon.com/apigateway/latest/api/API_GetUsage.html

    The quotas of the template are for a day, and what is counted for them is taken for today's use.
    """
    gateway = importlib.import_module(GATEWAY)

    def used(plan: str, query: dict[str, Any]) -> dict[str, list[list[int]]]:
        wanted = gateway._qp(query, "keyId")
        today = datetime.datetime.now(datetime.UTC).date()
        begin, end = (
            datetime.date.fromisoformat(gateway._qp(query, name))
            for name in ("startDate", "endDate")
        )
        days = [begin + datetime.timedelta(days=n) for n in range((end - begin).days + 1)]
        limit = int(gateway._usage_plans.get(plan)["quota"]["limit"])
        values = {}
        for key in gateway._usage_plan_keys.get(plan, {}):
            if wanted in (None, key):
                count, _ = gateway._quota_state.get((plan, key), (0, 0))
                each_day = [count if day == today else 0 for day in days]
                values[key] = [[count, limit - count] for count in each_day]
        return values

    async def handle(
        method: str, path: str, headers: Any, body: bytes, query: dict[str, Any]
    ) -> Response:
        match method, path.strip("/").split("/"):
            case "GET", ["usageplans", plan, "usage"] if gateway._usage_plans.get(plan):
                answer = {"usagePlanId": plan, "values": used(plan, query)}
                return gateway._v1_response(answer)  # type: ignore[no-any-return]
        return await handle_request(method, path, headers, body, query)

    return handle


def with_encryption_context(
    condition_keys: Callable[..., dict[str, Any]],
) -> Callable[..., dict[str, Any]]:
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


def with_leading_keys(
    condition_keys: Callable[..., dict[str, Any]],
) -> Callable[..., dict[str, Any]]:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/specifying-conditions.html"""

    def keys(service: str, action: str, body: bytes, parameters: dict[str, Any]) -> dict[str, Any]:
        found = condition_keys(service, action, body, parameters)
        if service == "dynamodb":
            # Requests on one row only: of others AWS checks each row against the policy by itself,
            # and ministack the whole request at once. The partition keys of all tables of the
            # template are called id or sub.
            request = json.loads(body or b"{}")
            row = request.get("Key") or request.get("Item") or {}
            key = row.get("id") or row.get("sub")
            if key:
                found["dynamodb:LeadingKeys"] = list(key.values())
        return found

    return keys


def with_role_as_principal(resolve_key: Callable[..., Any]) -> Callable[..., Any]:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html#condition-keys-principalarn"""
    evaluator = importlib.import_module("ministack.core.iam_evaluator")
    iam = importlib.import_module("ministack.services.iam")

    def resolve(key: str, context: Any) -> Any:
        value = resolve_key(key, context)
        if key.lower() == "aws:principalarn" and ":assumed-role/" in value:
            name = evaluator._role_name_from_assumed_arn(value)
            return iam._roles.get_scoped(context.principal_account, None, name)["Arn"]
        return value

    return resolve


def with_refusals_recorded(
    dispatch: Callable[..., Awaitable[tuple[int, Any, Any]]],
) -> Callable[..., Awaitable[tuple[int, Any, Any]]]:
    """https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html"""
    app = importlib.import_module("ministack.app")

    async def record(
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        query: dict[str, Any],
        request_id: str,
    ) -> tuple[int, Any, Any]:
        answer = await dispatch(method, path, headers, body, query, request_id)
        status, _, content = answer
        if status in (400, 403) and isinstance(content, bytes) and b"AccessDenied" in content:
            service = app.detect_service(method, path, headers, query)
            region = app.extract_region(headers)
            app._maybe_record_cloudtrail(
                service, method, path, headers, body, query, request_id, region
            )
        return answer

    return record


def with_shared_layers(resolve_layer: Callable[..., bytes | None]) -> Callable[..., bytes | None]:
    """Answer with a layer that only points at the folder where the real one is unpacked.

    A `.pth` file in a site directory is executed by Python before the handler is imported.
    """
    pointers: dict[str, bytes] = {}
    lock = threading.Lock()

    def resolve(reference: str | dict[str, Any]) -> bytes | None:
        arn = reference if isinstance(reference, str) else reference["Arn"]
        with lock:
            if arn not in pointers:
                layer = resolve_layer(reference)
                if layer is None:
                    return None
                pointers[arn] = pointer_to(unpack(layer))
            return pointers[arn]

    return resolve


def with_lower_priority(
    worker_of: Callable[..., tuple[str, str]],
) -> Callable[..., tuple[str, str]]:
    """A worker's script, which lowers the priority of its process before anything else."""

    def worker(runtime: str) -> tuple[str, str]:
        interpreter, script = worker_of(runtime)
        if runtime.startswith("python"):
            script = "import os\nos.nice(10)\n" + script
        return interpreter, script

    return worker


def unpack(layer: bytes) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="layer-"))
    with zipfile.ZipFile(io.BytesIO(layer)) as archive:
        archive.extractall(folder)
    return folder


def pointer_to(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        line = f"import sys; sys.path.insert(0, {str(folder / 'python')!r})\n"
        archive.writestr("python/lib/python3/site-packages/layer.pth", line)
    return packed.getvalue()


def main() -> None:
    amend(GATEWAY, "_build_lambda_event_v1", with_client_key_id)
    amend(GATEWAY, "_import_rest_api", with_gateway_responses)
    amend(PROVISIONERS, "_apigw_usage_plan_body", with_method_throttles)
    amend(PROVISIONERS, "_apigw_rest_api_update", with_rest_api_kept)
    amend(GATEWAY, "_update_api_key", with_disabled_keys)
    amend(GATEWAY, "handle_request", with_usage)
    amend("ministack.core.iam_actions", "request_tag_context", with_encryption_context)
    amend("ministack.core.iam_actions", "request_tag_context", with_leading_keys)
    amend("ministack.core.iam_evaluator", "_resolve_condition_key", with_role_as_principal)
    amend("ministack.app", "_dispatch_service_request", with_refusals_recorded)
    amend("ministack.services.lambda_svc", "_resolve_layer_zip", with_shared_layers)
    amend("ministack.core.lambda_runtime", "_detect_runtime_binary", with_lower_priority)
    importlib.import_module("ministack.app").main()


if __name__ == "__main__":
    main()
