"""Checks of what must survive a bad day: tables, KMS keys, logs, alarms, the stack itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from keyferry_cli.doctor.checks import Check, Severity
from keyferry_cli.doctor.facts import Alarm, Facts, KmsKey, LogGroup, Stack, Table, Topic

HIGH, MEDIUM, LOW = Severity.HIGH, Severity.MEDIUM, Severity.LOW

SHORT_LIVED: Final = frozenset({"ProofsTable", "BudgetsTable"})
"""Their rows live for minutes, or for one window: nobody would restore or miss them."""

EXPIRING: Final = frozenset(
    {"SessionsTable", "ProofsTable", "BudgetsTable", "GuessesTable", "CredentialsTable"}
)
"""Those with rows that DynamoDB is to delete when their time is over."""

SEALING: Final = frozenset({"KeyringKey", "VaultKey"})
"""The KMS keys that secrets are wrapped by; the third one is for alarms."""

AUDIT_DAYS: Final = 90


def _unsettled(_: str, stack: Stack, *__: Any) -> Iterator[str]:
    if stack.status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE"):
        yield f"The stack is in the state {stack.status}."


def _stack_deletable(_: str, stack: Stack, *__: Any) -> Iterator[str]:
    if not stack.termination_protection:
        yield "The stack has no termination protection."


def _pitr_off(name: str, table: Table, *__: Any) -> Iterator[str]:
    if not table.point_in_time_recovery and name not in SHORT_LIVED:
        yield "Point-in-time recovery is off."


def _table_deletable(name: str, table: Table, *__: Any) -> Iterator[str]:
    if not table.deletion_protection and name not in SHORT_LIVED:
        yield "The table is not protected from deletion."


def _ttl_off(name: str, table: Table, *__: Any) -> Iterator[str]:
    if name in EXPIRING and not table.time_to_live:
        yield "Rows are not deleted when their time is over."


def _table_uncapped(_: str, table: Table, *__: Any) -> Iterator[str]:
    if not table.max_units:
        yield "Reads and writes are not capped."


def _kms_key_unusable(_: str, key: KmsKey, *__: Any) -> Iterator[str]:
    if key.state != "Enabled":
        when = f", and will be deleted on {key.deleted_at}" if key.deleted_at else ""
        yield f"The KMS key is in the state {key.state}{when}."


def _kms_rotation_off(_: str, key: KmsKey, *__: Any) -> Iterator[str]:
    if key.state == "Enabled" and not key.rotates:
        yield "KMS does not rotate the key material by itself."


def _kms_without_context(name: str, key: KmsKey, *__: Any) -> Iterator[str]:
    if name in SEALING and not key.needs_context:
        yield "The policy of the KMS key no longer denies its use without an encryption context."


def _kms_for_others(name: str, key: KmsKey, *__: Any) -> Iterator[str]:
    if name in SEALING and not key.ours_only:
        yield "The policy of the KMS key lets others than this stack's functions use it."


def _log_group_missing(_: str, group: LogGroup, *__: Any) -> Iterator[str]:
    if not group.exists:
        yield "The log group is gone."


def _logs_forever(_: str, group: LogGroup, *__: Any) -> Iterator[str]:
    if group.exists and group.retention_days is None:
        yield "The logs are kept forever."


def _logs_short(_: str, group: LogGroup, *__: Any) -> Iterator[str]:
    days = group.retention_days
    if group.exists and days is not None and days < AUDIT_DAYS:
        yield f"The logs are kept for {days} days only."


def _alarms_off(_: str, __: Stack, facts: Facts, *___: Any) -> Iterator[str]:
    if not facts.alarms:
        yield "The stack has no alarms."


def _alarm_mute(_: str, alarm: Alarm, *__: Any) -> Iterator[str]:
    if not alarm.tells:
        yield "The alarm tells nobody."


def _alarm_ringing(_: str, alarm: Alarm, *__: Any) -> Iterator[str]:
    if alarm.state == "ALARM":
        yield "The alarm is going off right now."


def _alarm_unheard(_: str, topic: Topic, *__: Any) -> Iterator[str]:
    if not topic.confirmed:
        yield "Nobody has subscribed to the topic of the alarms" + (
            " and confirmed it." if topic.pending else "."
        )


def _alarm_unconfirmed(_: str, topic: Topic, *__: Any) -> Iterator[str]:
    if topic.pending and topic.confirmed:
        yield f"{topic.pending} of the subscriptions to the alarms are not confirmed."


CHECKS: Final = (
    Check(
        "stack-unsettled", "stack", MEDIUM, MEDIUM,
        "The last deployment failed, was taken back, or is still going on.",
        "See the events of the stack, then deploy again.",
        _unsettled,
    ),
    Check(
        "stack-deletable", "stack", LOW, None,
        "One command ends the API; tables and keys stay, and the address does not.",
        "aws cloudformation update-termination-protection --enable-termination-protection",
        _stack_deletable,
    ),
    Check(
        "pitr-off", "tables", HIGH, MEDIUM,
        "What is deleted or spoilt, by a mistake or on purpose, cannot be had back.",
        "aws dynamodb update-continuous-backups, or deploy again.",
        _pitr_off,
    ),
    Check(
        "table-deletable", "tables", HIGH, None,
        "One call deletes every session, user or key.",
        "aws dynamodb update-table --deletion-protection-enabled, or deploy with Stage=prod.",
        _table_deletable,
    ),
    Check(
        "ttl-off", "tables", LOW, LOW,
        "Expired rows are refused all the same; they cost money, and data is kept for no reason.",
        "aws dynamodb update-time-to-live with the attribute expires_at, or deploy again.",
        _ttl_off,
    ),
    Check(
        "table-uncapped", "tables", LOW, LOW,
        "Nothing but your account's quota bounds what a flood costs.",
        "Deploy again; the table was changed by hand.",
        _table_uncapped,
    ),
    Check(
        "kms-key-unusable", "kms_keys", HIGH, HIGH,
        "Nothing that is wrapped by it can be opened. Once it is deleted, that is for good.",
        "aws kms cancel-key-deletion and enable-key, now; then find out who did it.",
        _kms_key_unusable,
    ),
    Check(
        "kms-rotation-off", "kms_keys", MEDIUM, MEDIUM,
        "The same key material is used for all time.",
        "aws kms enable-key-rotation, or deploy again.",
        _kms_rotation_off,
    ),
    Check(
        "kms-without-context", "kms_keys", HIGH, HIGH,
        "What is sealed could be opened for another purpose than it is for.",
        "Deploy again, and see in CloudTrail who called PutKeyPolicy.",
        _kms_without_context,
    ),
    Check(
        "kms-for-others", "kms_keys", HIGH, None,
        "Whoever has wide rights in the account, and a copy of a table, opens what it holds.",
        "Deploy again, and see in CloudTrail who called PutKeyPolicy.",
        _kms_for_others,
    ),
    Check(
        "log-group-missing", "logs", MEDIUM, MEDIUM,
        "A function that may not make its group writes nothing.",
        "Deploy again.",
        _log_group_missing,
    ),
    Check(
        "logs-forever", "logs", MEDIUM, LOW,
        "Who used which key, and from where, is kept without end.",
        "aws logs put-retention-policy, or deploy again.",
        _logs_forever,
    ),
    Check(
        "logs-short", "logs", LOW, None,
        "A theft that is noticed late can no longer be traced.",
        f"aws logs put-retention-policy with {AUDIT_DAYS} days or more.",
        _logs_short,
    ),
    Check(
        "alarms-off", "stack", HIGH, LOW,
        "A token that is used twice, or a function that fails, is noticed by your users first.",
        "Deploy with AlarmEmail.",
        _alarms_off,
        also=("alarms",),
    ),
    Check(
        "alarm-mute", "alarms", HIGH, HIGH,
        "It goes off and nobody hears it.",
        "aws cloudwatch enable-alarm-actions, or deploy again.",
        _alarm_mute,
    ),
    Check(
        "alarm-ringing", "alarms", HIGH, MEDIUM,
        "Something is wrong now.",
        "docs/operations.md says of each alarm what it means and what to do.",
        _alarm_ringing,
    ),
    Check(
        "alarm-unheard", "topics", HIGH, MEDIUM,
        "Alarms go off and nobody hears them.",
        "Subscribe to the output AlarmTopic, and confirm it by the mail that comes.",
        _alarm_unheard,
    ),
    Check(
        "alarm-unconfirmed", "topics", LOW, LOW,
        "Somebody who is to hear of alarms does not.",
        "Let them confirm it, by the mail that they were sent; after three days, subscribe again.",
        _alarm_unconfirmed,
    ),
)  # fmt: skip
