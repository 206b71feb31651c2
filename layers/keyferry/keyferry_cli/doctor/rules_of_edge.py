"""Checks of what stands before the functions, and of how the functions are set and deployed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from keyferry_cli.client_keys import ClientKey
from keyferry_cli.doctor.checks import Check, Limits, Severity
from keyferry_cli.doctor.facts import (
    Account,
    Domain,
    Facts,
    Firewall,
    Function,
    Plan,
    Route,
    Settings,
    Stage,
)

HIGH, MEDIUM, LOW = Severity.HIGH, Severity.MEDIUM, Severity.LOW
DAY: Final = 86_400

ALL_METHODS: Final = "*/*"
DISCOVERY: Final = "GET /.well-known/"
"""What these routes begin with is for everybody."""

LOGIN_ROUTE: Final = "/v1/login/POST"
WHOLE_PASSWORD: Final = 15
"""Characters: NIST SP 800-63B-4 where the password is the only factor."""

_TLS_1_2: Final = ("TLS_1_2", "SecurityPolicy_TLS12_", "SecurityPolicy_TLS13_")
"""What the names of security policies begin with that let in nothing older than TLS 1.2."""

# Without these, a log or a trace of a request holds passwords and tokens.
_QUIET: Final = (
    "POWERTOOLS_LOGGER_LOG_EVENT",
    "POWERTOOLS_TRACER_CAPTURE_RESPONSE",
    "POWERTOOLS_TRACER_CAPTURE_ERROR",
)


# ── settings ─────────────────────────────────────────────────────────────


def _dpop_not_required(_: str, settings: Settings, *__: Any) -> Iterator[str]:
    if settings.has("KEYFERRY_REQUIRE_DPOP", "false"):
        yield "RequireDPoP is false: clients without a device key are let in."


def _app_check_off(_: str, settings: Settings, *__: Any) -> Iterator[str]:
    if settings.has("KEYFERRY_APP_CHECK", "off"):
        yield "AppCheck is off: nothing tells your app from a script with its client key."


def _app_check_monitor(_: str, settings: Settings, *__: Any) -> Iterator[str]:
    if settings.has("KEYFERRY_APP_CHECK", "monitor"):
        yield "AppCheck is monitor: apps that are not attested are counted, and let in."


def _rsa_oaep_allowed(_: str, settings: Settings, *__: Any) -> Iterator[str]:
    if settings.has("KEYFERRY_ALLOW_RSA_OAEP", "true"):
        yield "AllowRsaOaep is true: keys are also delivered by RSA-OAEP with SHA-1."


def _self_registration_open(_: str, settings: Settings, *__: Any) -> Iterator[str]:
    if settings.has("KEYFERRY_SELF_REGISTRATION", "true"):
        yield "SelfRegistration is true: whoever has the client key can make themselves a user."


def _short_passwords(_: str, settings: Settings, *__: Any) -> Iterator[str]:
    for length in settings.values.get("KEYFERRY_MIN_PASSWORD_LENGTH", ()):
        if length.isdecimal() and int(length) < WHOLE_PASSWORD:
            yield f"MinPasswordLength is {length}, less than {WHOLE_PASSWORD}."


def _authorizer_blind(_: str, settings: Settings, *__: Any) -> Iterator[str]:
    if settings.has("KEYFERRY_AUTHORIZER_CHECKS_SESSION", "false"):
        yield "AuthorizerChecksSession is false: the authorizer does not see that a session ended."


def _bodies_in_logs(_: str, settings: Settings, *__: Any) -> Iterator[str]:
    for variable in _QUIET:
        if settings.values.get(variable, frozenset()) - {"false"}:
            yield f"{variable} is not false in every function."


# ── API Gateway ──────────────────────────────────────────────────────────


def _stage_unthrottled(_: str, stage: Stage, *__: Any) -> Iterator[str]:
    everything = stage.methods.get(ALL_METHODS)
    if everything is None or not everything.rate or everything.rate < 0:
        yield "The stage has no throttle for all methods together."


def _bodies_in_api_logs(_: str, stage: Stage, *__: Any) -> Iterator[str]:
    traced = sorted(path for path, method in stage.methods.items() if method.data_trace)
    if traced:
        yield f"Data tracing writes whole requests to the log, for {', '.join(traced)}."


def _access_logs_off(_: str, stage: Stage, *__: Any) -> Iterator[str]:
    if stage.access_log_format is None:
        yield "The stage writes no access log."


def _secrets_in_access_log(_: str, stage: Stage, *__: Any) -> Iterator[str]:
    text = stage.access_log_format or ""
    if "$context.identity.apiKey" in text.replace("$context.identity.apiKeyId", ""):
        yield "The access log has the value of the client key in it ($context.identity.apiKey)."


def _execution_errors_unlogged(_: str, stage: Stage, *__: Any) -> Iterator[str]:
    everything = stage.methods.get(ALL_METHODS)
    if everything is None or everything.logging_level == "OFF":
        yield "API Gateway does not log its own errors."


def _api_cache_on(_: str, stage: Stage, *__: Any) -> Iterator[str]:
    if stage.cache:
        yield "The stage has a cache."


def _route_open(name: str, route: Route, *__: Any) -> Iterator[str]:
    if not route.client_key and not route.iam and not name.startswith(DISCOVERY):
        yield "API Gateway asks for no client key here, so no usage plan throttles it."


def _own_address_open(_: str, stage: Stage, facts: Facts, *__: Any) -> Iterator[str]:
    if stage.own_address and facts.domains:
        yield "The API's own execute-api address answers beside its domain."


def _no_domain(_: str, stage: Stage, facts: Facts, *__: Any) -> Iterator[str]:
    if not facts.domains:
        yield "Apps call the API by the address that API Gateway gave it."


def _old_tls(_: str, domain: Domain, *__: Any) -> Iterator[str]:
    if not domain.security_policy.startswith(_TLS_1_2):
        yield f"The security policy of the domain is {domain.security_policy or 'the default'}."


def _firewall_off(_: str, firewall: Firewall, *__: Any) -> Iterator[str]:
    if not firewall.attached:
        yield "No web ACL stands before the stage."


def _firewall_without_limits(_: str, firewall: Firewall, *__: Any) -> Iterator[str]:
    if firewall.attached and not firewall.blocking_rate_rules:
        yield "No rule of the web ACL blocks an address for the number of its requests."


def _plan_unthrottled(_: str, plan: Plan, *__: Any) -> Iterator[str]:
    if plan.rate is None:
        yield "The usage plan has no throttle."
    if plan.on_stage and LOGIN_ROUTE not in plan.routes:
        yield "The usage plan has no throttle of its own for logins."


def _plan_without_quota(_: str, plan: Plan, *__: Any) -> Iterator[str]:
    if plan.quota is None:
        yield "The usage plan has no quota."


def _plan_elsewhere(_: str, plan: Plan, *__: Any) -> Iterator[str]:
    if not plan.on_stage:
        yield "The usage plan is not for the stage of this stack: its client keys open nothing."


def _client_key_old(_: str, key: ClientKey, facts: Facts, limits: Limits) -> Iterator[str]:
    if not key.works or key.created is None:
        return
    days = (facts.now - key.created) // DAY
    if days >= limits.client_key_days:
        never = ", and has never been rotated" if key.from_template else ""
        yield f"The client key of {key.platform} is {days} days old{never}."


def _client_key_inconsistent(_: str, key: ClientKey, *__: Any) -> Iterator[str]:
    let_in = key.exists and key.enabled and key.in_plan
    if let_in and not key.known:
        yield "API Gateway lets this client key in, and the keyring does not know it."
    elif key.known and not let_in:
        why = "is gone" if not key.exists else "is disabled" if not key.enabled else "has no plan"
        yield f"The keyring knows this client key of {key.platform}, which {why} at API Gateway."


def _platform_shut_out(name: str, plan: Plan, facts: Facts, *__: Any) -> Iterator[str]:
    keys = [key for key in facts.client_keys.values() if isinstance(key, ClientKey)]
    if not any(key.works and key.platform == name for key in keys):
        yield "The platform has no client key that works: its apps are shut out."


# ── functions ────────────────────────────────────────────────────────────


def _alias_behind(_: str, function: Function, *__: Any) -> Iterator[str]:
    if function.differs and not function.changing_over:
        yield f"The live alias is behind what was deployed last: {', '.join(function.differs)}."


def _changing_over(_: str, function: Function, *__: Any) -> Iterator[str]:
    if function.changing_over:
        yield "The live alias leads to two versions."


def _login_unreserved(name: str, function: Function, *__: Any) -> Iterator[str]:
    if name == "LoginFunction" and function.reserved is None:
        yield "No concurrency is reserved for logins, nor is theirs bounded."


def _function_public(_: str, function: Function, *__: Any) -> Iterator[str]:
    if function.public:
        yield "The policy of the function lets anybody invoke it."


def _tracing_off(_: str, function: Function, *__: Any) -> Iterator[str]:
    if function.tracing != "Active":
        yield f"X-Ray tracing is {function.tracing}."


def _concurrency_unwatched(_: str, account: Account, facts: Facts, *__: Any) -> Iterator[str]:
    if facts.alarms and account.watched > account.concurrency:
        yield (
            f"The alarm was told of {account.watched} concurrent executions, and the account has"
            f" {account.concurrency}: functions are throttled before it goes off."
        )


CHECKS: Final = (
    Check(
        "dpop-not-required", "settings", HIGH, HIGH,
        "A stolen token is as good as the phone that it was stolen from.",
        "Deploy with RequireDPoP=true once every app has a device key.",
        _dpop_not_required,
    ),
    Check(
        "app-check-off", "settings", MEDIUM, LOW,
        "A client key can be read out of any copy of the app, and used by a script.",
        "Set up App Check (docs/login.md), deploy with AppCheck=monitor, then enforce.",
        _app_check_off,
    ),
    Check(
        "app-check-monitor", "settings", MEDIUM, LOW,
        "Apps that fail are seen in the metrics and are not stopped.",
        "When the metric of refused tokens is flat, deploy with AppCheck=enforce.",
        _app_check_monitor,
    ),
    Check(
        "rsa-oaep-allowed", "settings", LOW, LOW,
        "It is for Android before 12 alone; whoever can replace a session's key may choose it.",
        "Deploy with AllowRsaOaep=false when no such phones are left.",
        _rsa_oaep_allowed,
    ),
    Check(
        "self-registration-open", "settings", MEDIUM, LOW,
        "A user costs nothing, so nothing may be given to users for being one.",
        "Deploy with SelfRegistration=false and invite people, or give no key to the role *.",
        _self_registration_open,
    ),
    Check(
        "short-passwords", "settings", MEDIUM, LOW,
        "Short passwords are guessed, unless every user has a second factor (NIST SP 800-63B-4).",
        f"Deploy with MinPasswordLength={WHOLE_PASSWORD}, or ask for a second factor.",
        _short_passwords,
    ),
    Check(
        "authorizer-trusts-token", "settings", LOW, LOW,
        "Your own APIs take the access token of an ended session for up to 15 minutes more.",
        "Deploy with AuthorizerChecksSession=true if you use the authorizer; it costs a read.",
        _authorizer_blind,
    ),
    Check(
        "bodies-in-logs", "settings", HIGH, HIGH,
        "Events and errors hold passwords and tokens, which then are in a log or a trace.",
        "Deploy template.yaml as it is, and treat what was logged as leaked.",
        _bodies_in_logs,
    ),
    Check(
        "stage-unthrottled", "stages", HIGH, MEDIUM,
        "A flood reaches the functions and the bill.",
        "Deploy again; the stage was changed by hand.",
        _stage_unthrottled,
    ),
    Check(
        "bodies-in-api-logs", "stages", HIGH, HIGH,
        "Passwords and tokens are in the log of API Gateway.",
        "Switch data tracing off, delete that log, and treat what was logged as leaked.",
        _bodies_in_api_logs,
    ),
    Check(
        "access-logs-off", "stages", MEDIUM, MEDIUM,
        "What is refused before it reaches a function leaves no trace.",
        "Deploy again; API Gateway may need ManageApiGatewayAccount=true once.",
        _access_logs_off,
    ),
    Check(
        "secrets-in-access-log", "stages", HIGH, HIGH,
        "Whoever reads the log has the client keys.",
        "Log $context.identity.apiKeyId in its place, and rotate the client keys.",
        _secrets_in_access_log,
    ),
    Check(
        "execution-errors-unlogged", "stages", LOW, LOW,
        "Why API Gateway failed by itself cannot be found out.",
        "Deploy again; the stage was changed by hand.",
        _execution_errors_unlogged,
    ),
    Check(
        "api-cache-on", "stages", HIGH, HIGH,
        "Answers are credentials; one caller could be given those of another.",
        "Switch the cache off.",
        _api_cache_on,
    ),
    Check(
        "route-open", "routes", HIGH, HIGH,
        "Whoever likes can call it, as often as the stage lets all callers together.",
        "Deploy again; the API was changed by hand.",
        _route_open,
    ),
    Check(
        "own-address-open", "stages", HIGH, HIGH,
        "By it, one gets around the domain's TLS policy and client certificates.",
        "Deploy again; the API was changed by hand.",
        _own_address_open,
        also=("domains",),
    ),
    Check(
        "no-domain", "stages", LOW, None,
        "Apps in the field know the address: a new API means new apps. Its TLS policy is AWS's.",
        "Deploy with DomainName and CertificateArn before the first app ships.",
        _no_domain,
        also=("domains",),
    ),
    Check(
        "old-tls", "domains", HIGH, HIGH,
        "Connections by TLS 1.0 or 1.1 are accepted.",
        "Deploy again; the domain was changed by hand.",
        _old_tls,
    ),
    Check(
        "firewall-off", "firewall", HIGH, LOW,
        "Nothing bounds what one address can send but the usage plan, which all phones share.",
        "Deploy with Waf=on.",
        _firewall_off,
    ),
    Check(
        "firewall-without-limits", "firewall", MEDIUM, MEDIUM,
        "One address can use up what the usage plan lets everybody have together.",
        "Deploy again; the web ACL was changed by hand.",
        _firewall_without_limits,
    ),
    Check(
        "plan-unthrottled", "plans", HIGH, MEDIUM,
        "One client key can use up the whole stage, and guess passwords as fast as it likes.",
        "Deploy again; the usage plan was changed by hand.",
        _plan_unthrottled,
    ),
    Check(
        "plan-without-quota", "plans", MEDIUM, LOW,
        "An abused client key is bounded by the second and not by the day.",
        "Deploy again; the usage plan was changed by hand.",
        _plan_without_quota,
    ),
    Check(
        "plan-elsewhere", "plans", HIGH, HIGH,
        "The apps of the platform get 403.",
        "Deploy again; the usage plan was changed by hand.",
        _plan_elsewhere,
    ),
    Check(
        "platform-shut-out", "plans", HIGH, HIGH,
        "The apps of the platform get 403.",
        "keyferry clients list; then restore or add one.",
        _platform_shut_out,
        also=("client_keys",),
    ),
    Check(
        "client-key-old", "client_keys", LOW, LOW,
        "Whoever has ever read it out of an app can still use the quota of your apps.",
        "keyferry clients rotate, with the next release of the app (docs/clients.md).",
        _client_key_old,
    ),
    Check(
        "client-key-inconsistent", "client_keys", MEDIUM, MEDIUM,
        "Somebody has changed it past the keyferry command, or a command broke off.",
        "keyferry clients list; then restore or retire it.",
        _client_key_inconsistent,
    ),
    Check(
        "alias-behind", "functions", HIGH, MEDIUM,
        "A fix was deployed and is not served; or a deployment went back by itself.",
        "See the events of the stack and the deployments of CodeDeploy, then deploy again.",
        _alias_behind,
    ),
    Check(
        "changing-over", "functions", LOW, LOW,
        "A new version is being tried with a part of the requests. It ends by itself.",
        "Look again in some minutes; if it stays, see the deployments of CodeDeploy.",
        _changing_over,
    ),
    Check(
        "login-unreserved", "functions", LOW, None,
        "A flood of logins, each a costly hash, can starve the other functions of the account.",
        "Deploy with LoginConcurrency, where the account's quota leaves 100 over.",
        _login_unreserved,
    ),
    Check(
        "function-public", "functions", HIGH, HIGH,
        "Anybody with an AWS account gets past API Gateway; at the operator function, everything.",
        "Remove the statement (aws lambda remove-permission) and find out who made it.",
        _function_public,
    ),
    Check(
        "tracing-off", "functions", LOW, LOW,
        "Where a slow request spends its time is not seen.",
        "Deploy again; the function was changed by hand.",
        _tracing_off,
    ),
    Check(
        "concurrency-unwatched", "account", MEDIUM, LOW,
        "The alarm ConcurrencyNearLimit is silent when it matters.",
        "Deploy with AccountConcurrency as your account has it, or ask AWS for more.",
        _concurrency_unwatched,
        also=("alarms",),
    ),
)  # fmt: skip
