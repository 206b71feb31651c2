"""The web application firewall: what it stops, and that it keeps no credential."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from keyferry.edge.request import MAX_BODY_BYTES

Resources = dict[str, dict[str, Any]]

HASHING_ROUTES = ("/v1/login", "/v1/register", "/v1/password", "/v1/invitations/redeem")


@pytest.fixture
def acl(resources: Resources) -> dict[str, Any]:
    found: dict[str, Any] = resources["WebAcl"]["Properties"]
    return found


@pytest.fixture
def rules(acl: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {rule["Name"]: rule for rule in acl["Rules"]}


def test_it_stands_before_the_stage_by_one_condition(resources: Resources) -> None:
    for name in ("WebAcl", "WebAclAssociation", "WebAclLogs", "WebAclLogging"):
        assert resources[name]["Condition"] == "HasWaf"
    association = resources["WebAclAssociation"]["Properties"]
    assert association["ResourceArn"]["Fn::Sub"].endswith("/restapis/${Api}/stages/${ApiStage}")
    assert resources["WebAcl"]["Properties"]["Scope"] == "REGIONAL"


def test_managed_rules(rules: dict[str, dict[str, Any]]) -> None:
    managed = {
        rule["Statement"]["ManagedRuleGroupStatement"]["Name"]
        for rule in rules.values()
        if "ManagedRuleGroupStatement" in rule["Statement"]
    }
    assert managed == {
        "AWSManagedRulesAmazonIpReputationList",
        "AWSManagedRulesCommonRuleSet",
        "AWSManagedRulesKnownBadInputsRuleSet",
    }


def test_no_managed_rule_blocks_a_body(rules: dict[str, dict[str, Any]]) -> None:
    """A password, or a question to an upstream, may look like an attack and be none."""
    counted = {
        override["Name"]
        for name in ("common", "known-bad-inputs")
        for override in rules[name]["Statement"]["ManagedRuleGroupStatement"]["RuleActionOverrides"]
        if override["ActionToUse"] == {"Count": {}}
    }
    assert {name for name in counted if name.endswith("_BODY")} == {
        "CrossSiteScripting_BODY",
        "EC2MetaDataSSRF_BODY",
        "GenericLFI_BODY",
        "GenericRFI_BODY",
        "JavaDeserializationRCE_BODY",
        "Log4JRCE_BODY",
        "ReactJSRCE_BODY",
        "SizeRestrictions_BODY",
    }


@pytest.mark.parametrize("prefix", ["", "/prod", "/dev"])
def test_routes_that_hash_have_a_rate_of_their_own(
    rules: dict[str, dict[str, Any]], prefix: str
) -> None:
    rate = rules["requests-with-a-password"]["Statement"]["RateBasedStatement"]
    assert rate["AggregateKeyType"] == "IP"
    assert rate["Limit"] == {"Ref": "WafLoginsPer5Minutes"}
    assert rate["EvaluationWindowSec"] == 300
    path = rate["ScopeDownStatement"]["RegexMatchStatement"]
    assert path["FieldToMatch"] == {"UriPath": {}}
    for route in HASHING_ROUTES:
        assert re.search(path["RegexString"], prefix + route)
    for route in ("/v1/token", "/v1/keys", "/v1/sessions", "/.well-known/jwks.json"):
        assert not re.search(path["RegexString"], prefix + route)


def test_every_address_has_a_rate(rules: dict[str, dict[str, Any]]) -> None:
    rate = rules["requests"]["Statement"]["RateBasedStatement"]
    assert rate["Limit"] == {"Ref": "WafRequestsPer5Minutes"}
    assert "ScopeDownStatement" not in rate


def test_the_largest_body_is_the_functions_own(rules: dict[str, dict[str, Any]]) -> None:
    size, not_proxy = rules["large-bodies"]["Statement"]["AndStatement"]["Statements"]
    assert size["SizeConstraintStatement"]["Size"] == MAX_BODY_BYTES
    assert size["SizeConstraintStatement"]["ComparisonOperator"] == "GT"
    # what is larger than it can look at is too large, and not small
    assert size["SizeConstraintStatement"]["FieldToMatch"] == {
        "Body": {"OversizeHandling": "MATCH"}
    }
    path = not_proxy["NotStatement"]["Statement"]["RegexMatchStatement"]["RegexString"]
    assert re.search(path, "/prod/v1/proxy/gemini")
    assert not re.search(path, "/prod/v1/login")


def test_its_answers_have_the_shape_of_every_error(
    acl: dict[str, Any], rules: dict[str, dict[str, Any]]
) -> None:
    answered = set()
    for rule in acl["Rules"]:
        response = rule.get("Action", {}).get("Block", {}).get("CustomResponse")
        if response is None:
            assert "ManagedRuleGroupStatement" in rule["Statement"], "else WAF_FILTERED answers"
            continue
        headers = {each["Name"]: each["Value"] for each in response["ResponseHeaders"]}
        assert headers["Cache-Control"] == "no-store"
        assert ("Retry-After" in headers) == (response["ResponseCode"] == 429)
        body = acl["CustomResponseBodies"][response["CustomResponseBodyKey"]]
        assert body["ContentType"] == "APPLICATION_JSON"
        error = json.loads(body["Content"])
        assert set(error) == {"error", "error_description", "request_id"}
        answered.add((response["ResponseCode"], error["error"]))
    assert answered == {(429, "temporarily_unavailable"), (413, "payload_too_large")}


def test_it_keeps_no_credential(resources: Resources, acl: dict[str, Any]) -> None:
    assert acl["VisibilityConfig"]["SampledRequestsEnabled"] is False
    for rule in acl["Rules"]:
        assert rule["VisibilityConfig"]["SampledRequestsEnabled"] is False, rule["Name"]
    logging = resources["WebAclLogging"]["Properties"]
    redacted = {each["SingleHeader"]["Name"] for each in logging["RedactedFields"]}
    assert redacted == {"authorization", "dpop", "x-api-key", "x-firebase-appcheck"}
    protected = {
        (field["Field"]["FieldType"], *field["Field"].get("FieldKeys", ()))
        for field in acl["DataProtectionConfig"]["DataProtections"]
        if field["Action"] == "SUBSTITUTION" and not field.keys() & {"ExcludeRuleMatchDetails"}
    }
    # What a rule found in a body would be quoted in the line about it, and the body has a password.
    assert protected == {("SINGLE_HEADER", *sorted(redacted)), ("BODY",)}
    assert logging["LoggingFilter"]["DefaultBehavior"] == "DROP"
    group = resources["WebAclLogs"]["Properties"]["LogGroupName"]["Fn::Sub"]
    assert group.startswith("aws-waf-logs-")
