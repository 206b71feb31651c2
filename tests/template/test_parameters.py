"""Parameters that make no sense together are refused before anything is created."""

from __future__ import annotations

from typing import Any

import pytest

CERTIFICATE = "arn:aws:acm:eu-central-1:123456789012:certificate/0a1b2c3d"


def holds(condition: Any, parameters: dict[str, str]) -> Any:
    """The value of a rule's condition or assertion, as CloudFormation works it out."""
    match condition:
        case {"Fn::Equals": [left, right]}:
            return str(holds(left, parameters)) == str(holds(right, parameters))
        case {"Fn::Not": [inner]}:
            return not holds(inner, parameters)
        case {"Fn::And": inner}:
            return all(holds(each, parameters) for each in inner)
        case {"Fn::Or": inner}:
            return any(holds(each, parameters) for each in inner)
        case {"Condition": name}:
            return holds(CONDITIONS[name], parameters)
        case {"Ref": name}:
            return parameters[name]
        case str() | int():
            return condition
        case _:
            raise AssertionError(condition)


CONDITIONS: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def conditions(template: dict[str, Any]) -> None:
    CONDITIONS.update(template["Conditions"])


def values(template: dict[str, Any], changed: dict[str, str]) -> dict[str, str]:
    assert changed.keys() <= template["Parameters"].keys()
    defaults = {name: str(each["Default"]) for name, each in template["Parameters"].items()}
    return {**defaults, **changed}


def refusals(template: dict[str, Any], changed: dict[str, str]) -> list[str]:
    parameters = values(template, changed)
    return [
        name
        for name, rule in template["Rules"].items()
        if holds(rule["RuleCondition"], parameters)
        and not all(holds(each["Assert"], parameters) for each in rule["Assertions"])
    ]


DOMAIN = {"DomainName": "auth.example.com", "CertificateArn": CERTIFICATE}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"Stage": "prod"},
        DOMAIN,
        {**DOMAIN, "HostedZoneId": "Z0123456789ABC"},
        {**DOMAIN, "TruststoreUri": "s3://bucket/ca.pem"},
        {**DOMAIN, "TruststoreUri": "s3://bucket/ca.pem", "TruststoreVersion": "3"},
        {"AppCheck": "enforce", "AppCheckProjectNumber": "1", "AppCheckAppIds": "1:1:ios:a"},
        {"EmulatorEndpoint": "http://127.0.0.1:1", "LocalUpstream": "a.b:1:127.0.0.1:1"},
    ],
    ids=str,
)
def test_what_fits_together(template: dict[str, Any], changed: dict[str, str]) -> None:
    assert refusals(template, changed) == []


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"DomainName": "auth.example.com"}, "DomainNeedsCertificate"),
        ({"CertificateArn": CERTIFICATE}, "CertificateNeedsDomain"),
        ({"HostedZoneId": "Z0123456789ABC"}, "HostedZoneNeedsDomain"),
        ({"TruststoreUri": "s3://bucket/ca.pem"}, "TruststoreNeedsDomain"),
        ({**DOMAIN, "TruststoreVersion": "3"}, "TruststoreVersionNeedsTruststore"),
        ({"AppCheck": "monitor", "AppCheckAppIds": "1:1:ios:a"}, "AppCheckNeedsFirebase"),
        ({"AppCheck": "enforce", "AppCheckProjectNumber": "1"}, "AppCheckNeedsFirebase"),
        ({"AppCheckLimitedUse": "true"}, "LimitedUseNeedsAppCheck"),
        ({"LocalUpstream": "a.b:1:127.0.0.1:1"}, "LocalUpstreamNeedsEmulator"),
    ],
    ids=str,
)
def test_what_does_not(template: dict[str, Any], changed: dict[str, str], rule: str) -> None:
    assert refusals(template, changed) == [rule]


def test_every_rule_says_why(template: dict[str, Any]) -> None:
    for rule in template["Rules"].values():
        assert all(each["AssertDescription"] for each in rule["Assertions"])


@pytest.mark.parametrize(
    ("changed", "waf", "alarms"),
    [
        ({}, False, False),
        ({"Stage": "prod"}, True, True),
        ({"Waf": "on"}, True, False),
        ({"Stage": "prod", "Waf": "off"}, False, True),
        ({"AlarmEmail": "ops@example.com"}, False, True),
    ],
    ids=str,
)
def test_dev_is_cheap_and_prod_is_hardened(
    template: dict[str, Any], changed: dict[str, str], waf: bool, alarms: bool
) -> None:
    parameters = values(template, changed)
    assert holds({"Condition": "HasWaf"}, parameters) is waf
    assert holds({"Condition": "HasAlarms"}, parameters) is alarms


class TestIssuer:
    """The issuer, the output ApiUrl and the address that serves are one and the same."""

    def test_it_follows_the_domain(self, template: dict[str, Any]) -> None:
        issuer = template["Resources"]["Keyring"]["Properties"]["Issuer"]
        assert template["Outputs"]["ApiUrl"]["Value"] == issuer
        emulated, local, remote = issuer["Fn::If"]
        assert emulated == "IsEmulated"
        assert local["Fn::Sub"].startswith("${EmulatorEndpoint}/")
        condition, domain, address = remote["Fn::If"]
        assert (condition, domain) == ("HasDomain", {"Fn::Sub": "https://${DomainName}"})
        assert ".execute-api." in address["Fn::Sub"]

    def test_with_a_domain_there_is_no_other_way_in(self, template: dict[str, Any]) -> None:
        (server,) = template["Resources"]["Api"]["Properties"]["Body"]["servers"]
        assert server["x-amazon-apigateway-endpoint-configuration"] == {
            "disableExecuteApiEndpoint": {"Fn::If": ["HasDomain", True, False]}
        }

    def test_transport(self, template: dict[str, Any]) -> None:
        domain = template["Resources"]["CustomDomain"]["Properties"]
        assert domain["EndpointConfiguration"] == {"Types": ["REGIONAL"]}
        # API Gateway refuses an enhanced policy together with client certificates.
        assert domain["SecurityPolicy"]["Fn::If"][:2] == ["HasMutualTls", "TLS_1_2"]
        assert domain["SecurityPolicy"]["Fn::If"][2].startswith("SecurityPolicy_TLS13_1_2")
        assert domain["EndpointAccessMode"]["Fn::If"][2] == "STRICT"
        assert domain["MutualTlsAuthentication"]["Fn::If"][0] == "HasMutualTls"
        # It negotiates by the API's policy, also at a domain, and by TLS 1.0 where the API has none.
        api = template["Resources"]["Api"]["Properties"]
        for name in ("SecurityPolicy", "EndpointAccessMode"):
            assert api[name] == domain[name]
        mapping = template["Resources"]["CustomDomainMapping"]["Properties"]
        assert "BasePath" not in mapping  # the issuer is the domain's root
