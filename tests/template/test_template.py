"""What must stay true of the infrastructure, asked of the transformed template."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from keyferry.attestation.app_check import AppCheck, Mode
from keyferry.federation.jwks import Jwks
from keyferry.proxy.destination import RESOLVE_SECONDS
from keyferry.proxy.proxy import WHOLE_SECONDS
from keyferry.single_use import SingleUse
from keyferry.users.stored_hashes import MAX_MEMORY_BYTES
from keyferry_cli.local.environments import ROOT, environment_program

DEPLOYMENT = "AWS::ApiGateway::Deployment"  # named after the time, because of AlwaysDeploy

Resources = dict[str, dict[str, Any]]

FUNCTIONS = {
    "Login",
    "Refresh",
    "DeliverKey",
    "Proxy",
    "Mfa",
    "Sessions",
    "Account",
    "Authorizer",
    "Discovery",
    "OpenApi",
    "RotateKeyring",
    "Operator",
}
FIXED_PARAMETERS = {
    "AppName",
    "Stage",
    "EmulatorEndpoint",
    "LocalUpstream",
    "ManageApiGatewayAccount",
}  # never changed after creation

KEYED_ROUTES = {
    "POST /v1/login",
    "POST /v1/token",
    "POST /v1/revoke",
    "POST /v1/invitations/redeem",
    "POST /v1/register",
    "POST /v1/password",
    "GET /v1/keys",
    "GET /v1/keys/{name}",
    "POST /v1/proxy/{key}",
    "GET /v1/sessions",
    "DELETE /v1/sessions",
    "DELETE /v1/sessions/{id}",
    "PUT /v1/device/encryption-key",
    "POST /v1/mfa/totp",
    "POST /v1/mfa/totp/confirm",
    "POST /v1/mfa/totp/remove",
}
PUBLIC_ROUTES = {
    "GET /.well-known/openid-configuration",
    "GET /.well-known/oauth-authorization-server",
    "GET /.well-known/jwks.json",
}
OPERATOR_ROUTES = {"GET /openapi.json"}
SWITCHED_ON = {"OpenApi": "ServesOpenApi"}
"""Functions that are not there unless somebody wants them, with the condition."""

# All kinds that there are, but for those of authorizers, which no route here has.
GATEWAY_RESPONSES = {
    "ACCESS_DENIED",
    "API_CONFIGURATION_ERROR",
    "BAD_REQUEST_BODY",
    "BAD_REQUEST_PARAMETERS",
    "DEFAULT_4XX",
    "DEFAULT_5XX",
    "EXPIRED_TOKEN",
    "INTEGRATION_FAILURE",
    "INTEGRATION_TIMEOUT",
    "INVALID_API_KEY",
    "INVALID_SIGNATURE",
    "MISSING_AUTHENTICATION_TOKEN",
    "QUOTA_EXCEEDED",
    "REQUEST_TOO_LARGE",
    "RESOURCE_NOT_FOUND",
    "THROTTLED",
    "UNSUPPORTED_MEDIA_TYPE",
    "WAF_FILTERED",
}

KEPT_TABLES = {
    "SessionsTable",
    "UsersTable",
    "CredentialsTable",
    "GuessesTable",
    "VaultTable",
    "KeyringTable",
}
TABLES = {*KEPT_TABLES, "ProofsTable", "BudgetsTable"}

KEYRING_PURPOSES = {"token-signing", "refresh-mac", "dpop-nonce"}
KEYRING_CONTEXT = {"app", "stage", "purpose", "kid"}
TOTP_CONTEXT = {"app", "stage", "purpose", "sub"}
VAULT_CONTEXT = {"app", "stage", "key", "version"}

RIGHTS: dict[str, set[str]] = {
    "Login": {
        "CredentialsTable BatchGetItem",
        "CredentialsTable GetItem",
        "CredentialsTable UpdateItem",
        "CredentialsTable ConditionCheckItem",
        "CredentialsTable PutItem",
        "CredentialsTable DeleteItem",
        "ProofsTable PutItem",
        "UsersTable PutItem",
        "GuessesTable BatchGetItem",
        "GuessesTable UpdateItem",
        "GuessesTable PutItem",
        "GuessesTable DeleteItem",
        "UsersTable GetItem",
        "UsersTable UpdateItem",
        "SessionsTable PutItem",
        "SessionsTable BatchGetItem",
        "SessionsTable UpdateItem",
        "KeyringTable GetItem",
        "KeyringKey Decrypt",
    },
    "Refresh": {"SessionsTable UpdateItem", "KeyringTable GetItem", "KeyringKey Decrypt"},
    "DeliverKey": {
        "SessionsTable BatchGetItem",
        "UsersTable BatchGetItem",
        "VaultTable BatchGetItem",
        "KeyringTable GetItem",
        "KeyringKey Decrypt",
        "VaultKey Decrypt",
    },
    "Proxy": {
        "SessionsTable BatchGetItem",
        "UsersTable BatchGetItem",
        "VaultTable BatchGetItem",
        "ProofsTable PutItem",
        "BudgetsTable UpdateItem",
        "KeyringTable GetItem",
        "KeyringKey Decrypt",
        "VaultKey Decrypt",
    },
    "Sessions": {
        "SessionsTable Query",
        "SessionsTable UpdateItem",
        "KeyringTable GetItem",
        "KeyringKey Decrypt",
    },
    "Mfa": {
        "SessionsTable BatchGetItem",
        "UsersTable BatchGetItem",
        "UsersTable UpdateItem",
        "CredentialsTable BatchGetItem",
        "CredentialsTable GetItem",
        "CredentialsTable PutItem",
        "CredentialsTable UpdateItem",
        "CredentialsTable DeleteItem",
        "GuessesTable BatchGetItem",
        "GuessesTable UpdateItem",
        "GuessesTable DeleteItem",
        "KeyringTable GetItem",
        "KeyringKey Decrypt",
        "KeyringKey Encrypt",
    },
    "Account": {
        "CredentialsTable BatchGetItem",
        "ProofsTable PutItem",
        "CredentialsTable PutItem",
        "CredentialsTable UpdateItem",
        "CredentialsTable DeleteItem",
        "GuessesTable BatchGetItem",
        "GuessesTable UpdateItem",
        "GuessesTable PutItem",
        "GuessesTable DeleteItem",
        "UsersTable GetItem",
        "UsersTable PutItem",
        "UsersTable UpdateItem",
        "SessionsTable Query",
        "SessionsTable UpdateItem",
        "SessionsTable ConditionCheckItem",
        "KeyringTable GetItem",
        "KeyringKey Decrypt",
    },
    "Authorizer": {
        "ProofsTable PutItem",
        "SessionsTable BatchGetItem",
        "UsersTable BatchGetItem",
        "KeyringTable GetItem",
        "KeyringKey Decrypt",
    },
    "Discovery": {"KeyringTable GetItem"},
    "OpenApi": {"KeyringTable GetItem"},
    "RotateKeyring": {
        "KeyringTable GetItem",
        "KeyringTable PutItem",
        "KeyringKey GenerateDataKeyPairWithoutPlaintext",
        "KeyringKey GenerateDataKeyWithoutPlaintext",
    },
    "Operator": {
        "CredentialsTable GetItem",
        "CredentialsTable PutItem",
        "CredentialsTable UpdateItem",
        "CredentialsTable DeleteItem",
        "UsersTable GetItem",
        "UsersTable PutItem",
        "UsersTable UpdateItem",
        "UsersTable ConditionCheckItem",
        "SessionsTable Query",
        "SessionsTable UpdateItem",
        "VaultTable GetItem",
        "VaultTable PutItem",
        "VaultTable DeleteItem",
        "VaultKey GenerateDataKey",
        "KeyringKey Decrypt",
        "KeyringKey Encrypt",
    },
}
"""Every right of every function on data and keys. A change here is a change of the security model."""


def of_type(resources: Resources, kind: str) -> Resources:
    return {name: each for name, each in resources.items() if each["Type"] == kind}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(role: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for policy in role["Properties"].get("Policies", []):
        yield from policy["PolicyDocument"]["Statement"]


def longest_value(parameter: dict[str, Any]) -> int:
    """How many characters the value of a parameter can have; it has to be bounded."""
    if "AllowedValues" in parameter:
        return max(len(str(each)) for each in parameter["AllowedValues"])
    if parameter["Type"] == "Number":
        return len(str(parameter["MaxValue"]))
    longest: int = parameter["MaxLength"]
    return longest


def references(value: Any) -> Iterator[str]:
    """Every name that Ref, Fn::Sub and the keys of Fn::FindInMap and Fn::If stand on."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "Ref":
                yield inner
            elif key == "Fn::Sub":
                yield from re.findall(r"\$\{([A-Za-z]+)\}", json.dumps(inner))
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def operations(resources: Resources) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those too that are there under a condition."""
    for path, methods in resources["Api"]["Properties"]["Body"]["paths"].items():
        for method, operation in switched_on(methods).items():
            yield f"{method.upper()} {path}", switched_on(operation)


def switched_on(value: Any) -> Any:
    """What stands there when its condition holds."""
    if isinstance(value, dict) and set(value) == {"Fn::If"}:
        _, there, otherwise = value["Fn::If"]
        assert otherwise == {"Ref": "AWS::NoValue"}
        return there
    return value


def test_sam_validate_lint_is_clean() -> None:
    done = subprocess.run(
        [environment_program("sam", "sam"), "validate", "--lint", "--template", "template.yaml"],
        cwd=ROOT,
        env={**os.environ, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": "us-east-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class TestVersions:
    @pytest.mark.parametrize("edited", ["DepsLayer", "KeyferryLayer"])
    def test_an_edited_layer_gives_every_function_a_new_version(
        self, variants: dict[str, dict[str, Any]], edited: str
    ) -> None:
        before = of_type(variants["dev"]["Resources"], "AWS::Lambda::Version")
        after = of_type(variants[f"new {edited}"]["Resources"], "AWS::Lambda::Version")
        assert len(before) == len(after) == len(FUNCTIONS)
        assert before.keys().isdisjoint(after)

    @pytest.mark.parametrize("name", sorted(FUNCTIONS))
    def test_a_changed_parameter_replaces_the_versions_that_depend_on_it(
        self, template: dict[str, Any], name: str
    ) -> None:
        resources: Resources = template["Resources"]
        function = resources[f"{name}Function"]["Properties"]
        parameters = set(template["Parameters"]) - FIXED_PARAMETERS
        versioned = {**function, "ReservedConcurrentExecutions": None}  # is of all versions
        needed = set(references(versioned)) & parameters
        versions = of_type(resources, "AWS::Lambda::Version")
        (version,) = [each for key, each in versions.items() if key.startswith(f"{name}Function")]
        assert set(references(version["Properties"]["Description"])) == needed

    @pytest.mark.parametrize("name", sorted(FUNCTIONS))
    def test_a_version_can_be_described(self, template: dict[str, Any], name: str) -> None:
        """With the longest values that the parameters admit: Lambda refuses a longer description."""
        versions = of_type(template["Resources"], "AWS::Lambda::Version")
        (version,) = [each for key, each in versions.items() if key.startswith(f"{name}Function")]
        text = version["Properties"]["Description"]["Fn::Sub"]
        longest = re.sub(
            r"\$\{(\w+)\}",
            lambda match: "x" * longest_value(template["Parameters"][match[1]]),
            text,
        )
        assert len(longest) <= 256

    @pytest.mark.parametrize("name", sorted(FUNCTIONS))
    def test_no_setting_can_change_without_a_new_version(
        self, resources: Resources, name: str
    ) -> None:
        """As one would that is looked up in Mappings: the transform sees the look-up, not the value."""
        function = resources[f"{name}Function"]["Properties"]
        assert "Fn::FindInMap" not in json.dumps(function)

    @pytest.mark.parametrize("name", sorted(FUNCTIONS))
    def test_the_alias_live_serves_the_newest_version(
        self, resources: Resources, name: str
    ) -> None:
        alias = resources[f"{name}FunctionAliaslive"]["Properties"]
        (version,) = [
            key
            for key in of_type(resources, "AWS::Lambda::Version")
            if key.startswith(f"{name}Function")
        ]
        assert alias["Name"] == "live"
        assert alias["FunctionVersion"] == {"Fn::GetAtt": [version, "Version"]}

    @pytest.mark.parametrize("name", sorted(FUNCTIONS))
    def test_a_new_version_gets_a_tenth_of_the_requests_first(
        self, resources: Resources, name: str
    ) -> None:
        alias = resources[f"{name}FunctionAliaslive"]
        if name in {
            "RotateKeyring",
            "Operator",
            "OpenApi",
        }:  # too few requests for a tenth to tell anything
            assert "UpdatePolicy" not in alias
            return
        group = resources[
            alias["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]["DeploymentGroupName"]["Ref"]
        ]
        configuration = group["Properties"]["DeploymentConfigName"]["Fn::If"]
        assert configuration[0] == "IsProd"
        assert [each["Fn::Sub"][1]["ConfigName"] for each in configuration[1:]] == [
            "Canary10Percent5Minutes",
            "AllAtOnce",
        ]
        alarms = group["Properties"]["AlarmConfiguration"]["Fn::If"]
        # A refusal of KMS is answered with 503 and fails nothing; Discovery has no key, and the
        # authorizer knows no 503.
        others = [] if name in {"Discovery", "Authorizer"} else ["KmsUnavailableAlarm"]
        named = [{"Name": {"Ref": alarm}} for alarm in (f"{name}FailingAlarm", *others)]
        assert alarms == ["HasAlarms", {"Enabled": True, "Alarms": named}, {}]
        assert (
            "DEPLOYMENT_STOP_ON_ALARM" in group["Properties"]["AutoRollbackConfiguration"]["Events"]
        )

    def test_only_the_alias_is_reachable(self, resources: Resources) -> None:
        for route, operation in operations(resources):
            uri = json.dumps(operation["x-amazon-apigateway-integration"]["uri"])
            assert "FunctionAliaslive}" in uri, route
        (rule,) = of_type(resources, "AWS::Events::Rule").values()
        assert rule["Properties"]["Targets"][0]["Arn"] == {"Ref": "RotateKeyringFunctionAliaslive"}
        token = resources["Keyring"]["Properties"]["ServiceToken"]
        assert token == {"Ref": "RotateKeyringFunctionAliaslive"}


class TestFunctions:
    @pytest.mark.parametrize("name", sorted(FUNCTIONS))
    def test_platform(self, resources: Resources, name: str) -> None:
        function = resources[f"{name}Function"]["Properties"]
        assert function["Runtime"] == "python3.13"
        assert function["Architectures"] == ["arm64"]
        assert function["Timeout"] <= 60
        layers = [each["Ref"] for each in function["Layers"]]
        assert [re.sub("[0-9a-f]{10}$", "", layer) for layer in layers] == [
            "DepsLayer",
            "KeyferryLayer",
        ]

    @pytest.mark.parametrize("name", sorted(FUNCTIONS))
    def test_no_body_and_no_exception_reaches_logs_or_traces(
        self, resources: Resources, name: str
    ) -> None:
        variables = resources[f"{name}Function"]["Properties"]["Environment"]["Variables"]
        assert variables["POWERTOOLS_LOGGER_LOG_EVENT"] == "false"
        assert variables["POWERTOOLS_TRACER_CAPTURE_RESPONSE"] == "false"
        assert variables["POWERTOOLS_TRACER_CAPTURE_ERROR"] == "false"

    def test_a_loopback_upstream_is_for_the_emulator_only(
        self, template: dict[str, Any], resources: Resources
    ) -> None:
        variables = resources["ProxyFunction"]["Properties"]["Environment"]["Variables"]
        way = {"Fn::If": ["IsEmulated", {"Ref": "LocalUpstream"}, {"Ref": "AWS::NoValue"}]}
        assert variables["KEYFERRY_PROXY_CONNECT_TO"] == way
        emulated = {"Fn::Not": [{"Fn::Equals": [{"Ref": "EmulatorEndpoint"}, ""]}]}
        assert template["Conditions"]["IsEmulated"] == emulated
        for name in ("EmulatorEndpoint", "LocalUpstream"):
            parameter = template["Parameters"][name]
            assert parameter["Default"] == ""
            good = {"EmulatorEndpoint": "http://127.0.0.1:1", "LocalUpstream": "a.b:1:127.0.0.1:1"}
            assert re.fullmatch(parameter["AllowedPattern"], good[name])
            for bad in (
                "http://169.254.169.254:80",
                "a.b:443:169.254.169.254:80",
                "a:1:10.0.0.1:1",
            ):
                assert not re.fullmatch(parameter["AllowedPattern"], bad)
        users = [
            name for name, each in resources.items() if "LocalUpstream" in set(references(each))
        ]
        assert users == ["ProxyFunction"]

    def test_the_proxy_is_done_before_its_function_is_ended(self, resources: Resources) -> None:
        timeout = resources["ProxyFunction"]["Properties"]["Timeout"]
        needed = WHOLE_SECONDS + RESOLVE_SECONDS
        assert needed < timeout <= 29, "which is as long as API Gateway waits"

    @pytest.mark.parametrize("name", sorted(FUNCTIONS))
    def test_snapstart_is_for_prod_and_where_a_phone_waits(
        self, resources: Resources, name: str
    ) -> None:
        snapshots = {"Fn::If": ["IsProd", "PublishedVersions", "None"]}
        wanted = "None" if name in {"RotateKeyring", "Operator"} else snapshots
        assert resources[f"{name}Function"]["Properties"]["SnapStart"] == {"ApplyOn": wanted}

    def test_an_imported_hash_leaves_a_function_most_of_its_memory(
        self, resources: Resources
    ) -> None:
        for name in ("Login", "Account"):
            memory = resources[f"{name}Function"]["Properties"]["MemorySize"] * 1024 * 1024
            assert memory >= 4 * MAX_MEMORY_BYTES, name

    def test_there_are_no_others(self, resources: Resources) -> None:
        functions = of_type(resources, "AWS::Lambda::Function")
        assert set(functions) == {f"{name}Function" for name in FUNCTIONS}


class TestRoles:
    @pytest.mark.parametrize("name", sorted(FUNCTIONS))
    def test_a_function_has_exactly_the_rights_that_it_uses(
        self, resources: Resources, name: str
    ) -> None:
        function = resources[f"{name}Function"]["Properties"]
        assert function["Role"] == {"Fn::GetAtt": [f"{name}Role", "Arn"]}
        granted = set()
        for statement in statements(resources[f"{name}Role"]):
            if statement["Sid"] in {"WriteOwnLogs", "SendTraces"}:
                continue
            for resource in as_list(statement["Resource"]):
                target, attribute = resource["Fn::GetAtt"]
                assert attribute == "Arn"
                for action in as_list(statement["Action"]):
                    granted.add(f"{target} {action.split(':')[1]}")
        assert granted == RIGHTS[name]

    @pytest.mark.parametrize("name", sorted(FUNCTIONS))
    def test_a_function_writes_only_its_own_log_group(
        self, resources: Resources, name: str
    ) -> None:
        (logs,) = [s for s in statements(resources[f"{name}Role"]) if s["Sid"] == "WriteOwnLogs"]
        assert set(logs["Action"]) == {"logs:CreateLogStream", "logs:PutLogEvents"}
        assert logs["Resource"] == {"Fn::GetAtt": [f"{name}Logs", "Arn"]}
        configuration = resources[f"{name}Function"]["Properties"]["LoggingConfig"]
        assert configuration["LogGroup"] == {"Ref": f"{name}Logs"}
        assert configuration["LogFormat"] == "JSON"

    def test_no_wildcards(self, resources: Resources) -> None:
        for name, role in of_type(resources, "AWS::IAM::Role").items():
            for statement in statements(role):
                actions = as_list(statement["Action"])
                assert not any("*" in action for action in actions), name
                assert "NotAction" not in statement
                assert "NotResource" not in statement
                if "*" in as_list(statement["Resource"]):
                    assert all(action.startswith("xray:Put") for action in actions), name

    @pytest.mark.parametrize("name", sorted(FUNCTIONS))
    def test_the_path_of_a_role_is_of_one_stack_and_function(
        self, resources: Resources, name: str
    ) -> None:
        """The policies of the KMS keys know the roles by it."""
        folder = re.sub("(?<!^)(?=[A-Z])", "_", name).lower()
        path = {"Fn::Sub": f"/${{AWS::StackName}}/{folder}/"}
        assert resources[f"{name}Role"]["Properties"]["Path"] == path

    def test_only_lambda_takes_the_role_of_a_function(self, resources: Resources) -> None:
        for name in FUNCTIONS:
            (statement,) = resources[f"{name}Role"]["Properties"]["AssumeRolePolicyDocument"][
                "Statement"
            ]
            assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}
            assert statement["Action"] == "sts:AssumeRole"

    def test_no_managed_policy_of_a_function(self, resources: Resources) -> None:
        for name in FUNCTIONS:
            assert "ManagedPolicyArns" not in resources[f"{name}Role"]["Properties"]

    def test_accounts_are_kept_out_of_everything_but_passwords_and_invitations(
        self, resources: Resources
    ) -> None:
        rows: dict[str, set[str]] = {}
        for statement in statements(resources["AccountRole"]):
            if statement["Resource"] != {"Fn::GetAtt": ["CredentialsTable", "Arn"]}:
                continue
            keys = statement["Condition"]["ForAllValues:StringLike"]["dynamodb:LeadingKeys"]
            for action in statement["Action"]:
                rows.setdefault(action, set()).update(keys)
        assert rows == {
            "dynamodb:BatchGetItem": {"password#*", "invitation#*"},
            "dynamodb:PutItem": {"password#*"},
            "dynamodb:UpdateItem": {"password#*"},
            "dynamodb:DeleteItem": {"invitation#*"},
        }


@pytest.mark.parametrize("name", ["Login", "Account"])
def test_app_check_is_as_the_parameters_say(resources: Resources, name: str) -> None:
    variables = resources[f"{name}Function"]["Properties"]["Environment"]["Variables"]
    parameters = {
        "AppCheck": "enforce",
        "AppCheckProjectNumber": "123456789012",
        "AppCheckAppIds": "1:123456789012:ios:a1",
        "AppCheckLimitedUse": "true",
        "ProofsTable": "proofs",
    }
    environ = {
        key: parameters.get(value["Ref"], "") if isinstance(value, dict) and "Ref" in value else ""
        for key, value in variables.items()
    }
    dynamodb: Any = None
    app_check = AppCheck.from_environ(Jwks(lambda: 0), dynamodb, environ)
    assert (app_check.mode, app_check.project_number) == (Mode.ENFORCE, "123456789012")
    assert app_check.app_ids == {"1:123456789012:ios:a1"}
    assert app_check.used == SingleUse(dynamodb, "proofs")


class TestKeys:
    @pytest.mark.parametrize("name", sorted(FUNCTIONS))
    def test_every_use_of_a_key_is_bound_to_its_encryption_context(
        self, resources: Resources, name: str
    ) -> None:
        for statement in statements(resources[f"{name}Role"]):
            if not as_list(statement["Action"])[0].startswith("kms:"):
                continue
            equal = statement["Condition"]["StringEquals"]
            # ForAllValues alone is also true of an empty context, hence the required values.
            assert equal["kms:EncryptionContext:app"] == {"Ref": "AppName"}
            assert equal["kms:EncryptionContext:stage"] == {"Ref": "Stage"}
            (keys,) = statement["Condition"]["ForAllValues:StringEquals"].values()
            if equal.get("kms:EncryptionContext:purpose") == "totp":
                assert set(keys) == TOTP_CONTEXT
            elif statement["Resource"] == {"Fn::GetAtt": ["KeyringKey", "Arn"]}:
                assert set(keys) == KEYRING_CONTEXT
                assert set(as_list(equal["kms:EncryptionContext:purpose"])) <= KEYRING_PURPOSES
            else:
                assert set(keys) == VAULT_CONTEXT

    def test_purposes(self, resources: Resources) -> None:
        purposes: dict[tuple[str, str], set[str]] = {}
        for name in FUNCTIONS:
            for statement in statements(resources[f"{name}Role"]):
                equal = statement.get("Condition", {}).get("StringEquals", {})
                for action in statement["Action"]:
                    if "kms:EncryptionContext:purpose" in equal:
                        named = as_list(equal["kms:EncryptionContext:purpose"])
                        purposes.setdefault((name, action), set()).update(named)
        assert purposes == {
            ("Login", "kms:Decrypt"): {*KEYRING_PURPOSES, "totp"},
            ("Mfa", "kms:Decrypt"): {"dpop-nonce", "totp"},
            ("Mfa", "kms:Encrypt"): {"totp"},
            ("Operator", "kms:Decrypt"): {"totp"},
            ("Operator", "kms:Encrypt"): {"totp"},
            ("Refresh", "kms:Decrypt"): KEYRING_PURPOSES,
            ("DeliverKey", "kms:Decrypt"): {"token-signing", "dpop-nonce"},
            ("Proxy", "kms:Decrypt"): {"dpop-nonce"},
            ("Sessions", "kms:Decrypt"): {"refresh-mac", "dpop-nonce"},
            ("Account", "kms:Decrypt"): {"dpop-nonce"},
            ("Authorizer", "kms:Decrypt"): {"dpop-nonce"},
            ("RotateKeyring", "kms:GenerateDataKeyPairWithoutPlaintext"): {"token-signing"},
            ("RotateKeyring", "kms:GenerateDataKeyWithoutPlaintext"): {"refresh-mac", "dpop-nonce"},
        }

    def test_a_key_refuses_to_work_without_a_context(self, resources: Resources) -> None:
        keys = of_type(resources, "AWS::KMS::Key")
        assert set(keys) == {"KeyringKey", "VaultKey", "AlarmKey"}
        for name in ("KeyringKey", "VaultKey"):
            key = keys[name]
            properties = key["Properties"]
            (deny,) = [
                each
                for each in properties["KeyPolicy"]["Statement"]
                if each.get("Sid") == "NoUseWithoutEncryptionContext"
            ]
            assert (deny["Effect"], deny["Principal"]) == ("Deny", {"AWS": "*"})
            assert deny["Condition"] == {"Null": {"kms:EncryptionContextKeys": "true"}}
            assert {"kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey*"} <= set(deny["Action"])
            assert properties["EnableKeyRotation"] is True
            assert key["UpdateReplacePolicy"] == "Retain"


class TestApi:
    def test_every_route_needs_a_client_key_or_is_discovery(self, resources: Resources) -> None:
        by_kind: dict[str, set[str]] = {}
        for route, operation in operations(resources):
            by_kind.setdefault(json.dumps(operation["security"]), set()).add(route)
        assert by_kind == {
            '[{"api_key": []}]': KEYED_ROUTES,
            "[]": PUBLIC_ROUTES,
            '[{"AWS_IAM": []}]': OPERATOR_ROUTES,
        }

    def test_the_document_is_off_and_then_behind_iam(
        self, template: dict[str, Any], resources: Resources
    ) -> None:
        parameter = template["Parameters"]["ServeOpenApi"]
        assert (parameter["Default"], parameter["AllowedValues"]) == ("false", ["true", "false"])
        condition = {"Fn::Equals": [{"Ref": "ServeOpenApi"}, "true"]}
        assert template["Conditions"]["ServesOpenApi"] == condition
        made = {name: each for name, each in resources.items() if name.startswith("OpenApi")}
        alarm = made.pop("OpenApiFailingAlarm")
        assert alarm["Condition"] == "WatchesOpenApi"
        assert {each["Condition"] for each in made.values()} == {"ServesOpenApi"}
        assert {"OpenApiFunction", "OpenApiRole", "OpenApiLogs"} <= set(made)
        body = resources["Api"]["Properties"]["Body"]
        assert body["paths"]["/openapi.json"]["Fn::If"][0] == "ServesOpenApi"
        scheme = body["components"]["securitySchemes"]["AWS_IAM"]
        assert scheme["x-amazon-apigateway-authtype"] == "awsSigv4"
        # With the caller's own credentials the caller would need a right on the function as well.
        ((_, operation),) = [each for each in operations(resources) if each[0] in OPERATOR_ROUTES]
        assert "credentials" not in operation["x-amazon-apigateway-integration"]

    def test_gateway_responses_have_the_shape_of_every_error(self, resources: Resources) -> None:
        body = resources["Api"]["Properties"]["Body"]
        responses = body["x-amazon-apigateway-gateway-responses"]
        assert set(responses) == GATEWAY_RESPONSES
        for name, response in responses.items():
            assert set(response["responseTemplates"]) == {"application/json"}, name
            text = response["responseTemplates"]["application/json"]
            assert set(re.findall(r"\$[a-zA-Z.]+", text)) == {"$context.requestId"}, "no echo"
            error = json.loads(response["responseTemplates"]["application/json"])
            assert set(error) == {"error", "error_description", "request_id"}, name
            assert error["request_id"] == "$context.requestId", name
            headers = response["responseParameters"]
            assert headers["gatewayresponse.header.Cache-Control"] == "'no-store'", name
            retryable = str(response.get("statusCode")) in {"429", "503"}
            assert not retryable or "gatewayresponse.header.Retry-After" in headers, name

    def test_stage(self, resources: Resources) -> None:
        (stage,) = of_type(resources, "AWS::ApiGateway::Stage").values()
        properties = stage["Properties"]
        assert properties["StageName"] == {"Ref": "Stage"}
        assert properties["TracingEnabled"] is True
        for settings in map(switched_on, properties["MethodSettings"]):
            assert settings["DataTraceEnabled"] is False  # bodies hold passwords and tokens
            assert settings["MetricsEnabled"] is True
            assert {"ThrottlingRateLimit", "ThrottlingBurstLimit"} <= set(settings)

    def test_a_route_without_a_client_key_has_a_throttle_of_its_own(
        self, resources: Resources
    ) -> None:
        (stage,) = of_type(resources, "AWS::ApiGateway::Stage").values()
        everything, *routes = map(switched_on, stage["Properties"]["MethodSettings"])
        assert (everything["HttpMethod"], everything["ResourcePath"]) == ("*", "/*")
        assert {
            f"{each['HttpMethod']} {each['ResourcePath'][1:].replace('~1', '/')}" for each in routes
        } == PUBLIC_ROUTES | OPERATOR_ROUTES

    def test_the_access_log_names_the_client_key_but_never_tells_it(
        self, resources: Resources
    ) -> None:
        (stage,) = of_type(resources, "AWS::ApiGateway::Stage").values()
        line = stage["Properties"]["AccessLogSetting"]["Format"]
        fields = json.loads(line)
        assert fields["client_key_id"] == "$context.identity.apiKeyId"
        assert not re.search(r"identity\.apiKey\b(?!Id)|authorizer|request\.header", line)

    @pytest.mark.parametrize("platform", ["Ios", "Android"])
    def test_each_platform_has_a_throttled_plan_and_a_key_without_a_known_value(
        self, resources: Resources, platform: str
    ) -> None:
        plan = resources[f"{platform}UsagePlan"]["Properties"]
        (stage,) = plan["ApiStages"]
        throttled = {f"{m} {p}" for p, m in (key.rsplit("/", 1) for key in stage["Throttle"])}
        assert throttled == KEYED_ROUTES
        assert plan["Throttle"].keys() == {"RateLimit", "BurstLimit"}
        assert plan["Quota"]["Period"] == "DAY"
        key = resources[f"{platform}ClientKey"]["Properties"]
        assert "Value" not in key
        assert key["GenerateDistinctId"] is True
        link = resources[f"{platform}UsagePlanKey"]["Properties"]
        assert link["KeyId"] == {"Ref": f"{platform}ClientKey"}
        assert link["UsagePlanId"] == {"Ref": f"{platform}UsagePlan"}

    def test_each_client_of_the_keyring_tells_its_key_and_its_plan(
        self, template: dict[str, Any], resources: Resources
    ) -> None:
        (keyring,) = of_type(resources, "Custom::Keyring").values()
        outputs = template["Outputs"]
        for platform, keys in keyring["Properties"]["Clients"].items():
            name = platform.capitalize()
            assert keys == [{"Ref": f"{name}ClientKey"}]
            assert outputs[f"{name}ClientKeyId"]["Value"] == {"Ref": f"{name}ClientKey"}
            assert outputs[f"{name}UsagePlanId"]["Value"] == {"Ref": f"{name}UsagePlan"}
        told = {name for name in outputs if name.endswith("UsagePlanId")}
        assert len(told) == len(of_type(resources, "AWS::ApiGateway::UsagePlan"))


class TestInvokePermissions:
    """Who may invoke a function without IAM rights of their own: its policy says so."""

    def test_api_gateway_for_the_function_of_each_route(self, resources: Resources) -> None:
        wanted = {
            (
                f"{method}{re.sub('{.*?}', '*', path)}",
                switched_on(operation["x-amazon-apigateway-integration"]["uri"])["Fn::Sub"],
            )
            for route, operation in operations(resources)
            for method, path in [route.split(" ")]
        }
        found = set()
        for permission in self.of(resources, "apigateway.amazonaws.com"):
            source = permission["SourceArn"]["Fn::Sub"]
            if isinstance(source, str):
                continue  # the authorizer's, below
            arn, names = source
            assert names == {"__ApiId__": {"Ref": "Api"}, "__Stage__": "*"}
            route = re.fullmatch(
                r"arn:aws:execute-api:\$\{AWS::Region\}:\$\{AWS::AccountId\}"
                r":\$\{__ApiId__\}/\$\{__Stage__\}/([A-Z]+/.*)",
                arn,
            )
            assert route is not None
            alias = permission["FunctionName"]["Ref"]
            (uri,) = {uri for path, uri in wanted if path == route[1]}
            assert f"${{{alias}}}/invocations" in uri, "the route's own function"
            found.add((route[1], uri))
        assert found == wanted

    def test_the_others(self, resources: Resources) -> None:
        (schedule,) = self.of(resources, "events.amazonaws.com")
        assert schedule["SourceArn"] == {"Fn::GetAtt": ["RotateKeyringFunctionDaily", "Arn"]}
        (authorizer,) = [
            each
            for each in self.of(resources, "apigateway.amazonaws.com")
            if each["FunctionName"] == {"Ref": "AuthorizerFunctionAliaslive"}
        ]
        assert authorizer["SourceAccount"] == {"Ref": "AWS::AccountId"}
        of_this_account = ":execute-api:${AWS::Region}:${AWS::AccountId}:*/authorizers/*"
        assert authorizer["SourceArn"]["Fn::Sub"].endswith(of_this_account)

    def test_nobody_else(self, resources: Resources) -> None:
        permissions = of_type(resources, "AWS::Lambda::Permission").values()
        principals = {each["Properties"]["Principal"] for each in permissions}
        assert principals == {"apigateway.amazonaws.com", "events.amazonaws.com"}
        for permission in permissions:
            properties = permission["Properties"]
            assert properties["Action"] == "lambda:InvokeFunction"
            assert properties["FunctionName"]["Ref"].endswith("Aliaslive"), "never the newest code"
            assert "Operator" not in properties["FunctionName"]["Ref"], "which is for IAM alone"
        assert not of_type(resources, "AWS::Lambda::Url")

    @staticmethod
    def of(resources: Resources, principal: str) -> list[dict[str, Any]]:
        return [
            each["Properties"]
            for each in of_type(resources, "AWS::Lambda::Permission").values()
            if each["Properties"]["Principal"] == principal
        ]


class TestState:
    def test_tables(self, resources: Resources) -> None:
        tables = of_type(resources, "AWS::DynamoDB::Table")
        assert set(tables) == TABLES
        for name, table in tables.items():
            properties = table["Properties"]
            recovery = properties["PointInTimeRecoverySpecification"]
            assert recovery["PointInTimeRecoveryEnabled"] is True, name
            assert properties["SSESpecification"]["SSEEnabled"] is True, name
            assert properties["BillingMode"] == "PAY_PER_REQUEST", name
            # Nothing else could delete the stack: CloudFormation does not lift a protection.
            protection = {"Fn::If": ["IsProd", True, False]} if name in KEPT_TABLES else False
            assert properties["DeletionProtectionEnabled"] == protection, name
            assert (table["DeletionPolicy"] == "Delete") == (name not in KEPT_TABLES), name
            insights = properties.get("ContributorInsightsSpecification")
            throttled = {"Enabled": True, "Mode": "THROTTLED_KEYS"}
            in_prod = {"Fn::If": ["IsProd", throttled, {"Ref": "AWS::NoValue"}]}
            # Rows of credentials are called as users are, whom CloudWatch is not to know.
            assert insights == (None if name == "CredentialsTable" else in_prod), name
            if name in KEPT_TABLES:
                assert table["UpdateReplacePolicy"] == "Retain", name
                assert table["DeletionPolicy"] == "RetainExceptOnCreate", name

    def test_rows_that_end_are_removed(self, resources: Resources) -> None:
        ends = {
            name: table["Properties"].get("TimeToLiveSpecification")
            for name, table in of_type(resources, "AWS::DynamoDB::Table").items()
        }
        endless = {"UsersTable", "VaultTable", "KeyringTable"}
        assert {name for name, ttl in ends.items() if ttl is None} == endless
        for name in TABLES - endless:
            assert ends[name] == {"AttributeName": "expires_at", "Enabled": True}

    def test_every_log_group_forgets(self, resources: Resources) -> None:
        groups = of_type(resources, "AWS::Logs::LogGroup")
        assert set(groups) == {
            *(f"{name}Logs" for name in FUNCTIONS),
            "ApiAccessLogs",
            "ApiExecutionLogs",
            "WebAclLogs",
        }
        for name, group in groups.items():
            assert "RetentionInDays" in group["Properties"], name

    def test_api_gateway_finds_the_group_of_its_own_errors_there(
        self, resources: Resources
    ) -> None:
        """Else it makes one that keeps everything for ever, and the stack cannot make it any more."""
        group = resources["ApiExecutionLogs"]["Properties"]["LogGroupName"]
        assert group == {"Fn::Sub": "API-Gateway-Execution-Logs_${Api}/${Stage}"}
        (stage,) = of_type(resources, "AWS::ApiGateway::Stage").values()
        assert stage["Properties"]["Variables"] == {"ExecutionLogs": {"Ref": "ApiExecutionLogs"}}


def test_no_secret_is_a_parameter(template: dict[str, Any]) -> None:
    for name, parameter in template["Parameters"].items():
        assert "NoEcho" not in parameter, name
        assert not re.search(r"(?i)secret|password(?!Length)|token|private|credential", name)


def test_outputs(template: dict[str, Any]) -> None:
    assert set(template["Outputs"]) == {
        "ApiUrl",
        "IosClientKeyId",
        "AndroidClientKeyId",
        "IosUsagePlanId",
        "AndroidUsagePlanId",
        "OperatorFunction",
        "KeyringFunction",
        "AuditLogGroups",
        "AlarmTopic",
        "CustomDomainTarget",
        "AuthorizerArn",
        "KeyringKeyArn",
        "VaultKeyArn",
        *TABLES,
    }


def test_prod_differs_only_in_values(variants: dict[str, dict[str, Any]]) -> None:
    """One template for both: conditions and maps, no resource that only one of them has ever seen."""
    dev, prod = (
        {name for name, each in variants[stage]["Resources"].items() if each["Type"] != DEPLOYMENT}
        for stage in ("dev", "prod")
    )
    assert dev == prod
    limits = variants["dev"]["Mappings"]["Limits"]
    assert limits["dev"].keys() == limits["prod"].keys()
