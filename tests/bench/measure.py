"""Processor time of the cases, in turn, and what each of them costs in calls and bytes."""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.cases import Case
from tests.bench.deployment import Answer, Event, counts

KMS = frozenset({"Decrypt", "GenerateDataKey"})


@dataclass(frozen=True)
class Spread:
    """Of one figure over the rounds: the median, the quartiles and the lowest."""

    median: float
    lower: float
    upper: float
    lowest: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        if len(figures) < 2:
            return cls(figures[0], figures[0], figures[0], figures[0])
        lower, _, upper = statistics.quantiles(figures, n=4, method="inclusive")
        return cls(statistics.median(figures), lower, upper, min(figures))

    def members(self, digits: int) -> dict[str, float]:
        return {name: round(value, digits) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Cost:
    """Of one request: AWS calls by operation, their bytes both ways, and those of the answer."""

    calls: dict[str, int]
    sent: int
    received: int
    answer: int


@dataclass
class Batch:
    """The requests of a case in one round."""

    case: Case
    events: list[Event]
    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0

    def answer(self, index: int) -> None:
        event, context = self.events[index], self.case.deployment.context(self.case.function)
        call = self.case.call
        before = time.process_time()
        answer = call(event, context)
        self.seconds += time.process_time() - before
        self.answers.append(answer)


def ratio(of: Sequence[float], to: Sequence[float]) -> Spread:
    """Round by round: what made one round slow was in both figures of it."""
    return Spread.of([a / b for a, b in zip(of, to, strict=True)])


def processor_ms(group: Sequence[Case], rounds: int) -> dict[str, list[float]]:
    """For each case, ms of processor time for each request, round by round.

    All threads of this process count, and no other process. The cases take turns call by call, in
    an order that changes from round to round, so that a busy machine is equally busy for each.
    """
    for case in group:
        case.answered()  # the functions are warm, and right, before anything is timed
    gc.collect()
    gc.freeze()  # what the benchmark itself holds is none of a function's garbage
    times: dict[str, list[float]] = {case.name: [] for case in group}
    for number in range(rounds):
        start = number % len(group)
        turns = [*group[start:], *group[:start]]
        batches = [Batch(case, case.events()) for case in turns]
        for index in range(max(case.batch for case in group)):
            for batch in batches:
                if index < batch.case.batch:
                    batch.answer(index)
        for batch in batches:
            batch.case.check(batch.events, batch.answers)
            times[batch.case.name].append(batch.seconds * 1000 / batch.case.batch)
    gc.unfreeze()
    return times


def cost(case: Case) -> Cost:
    """Of three requests the one with the fewest calls: now and then the keyring is read again."""
    found: list[Cost] = []
    for _ in range(3):
        events = case.events()
        answers = []
        for number, event in enumerate(events):
            counts(case.deployment.endpoint)
            answer = case.call(event, case.deployment.context(case.function))
            made = counts(case.deployment.endpoint)
            answers.append(answer)
            if number == 0:
                body = answer.get("body", "") if isinstance(answer, dict) else ""
                found.append(
                    Cost(
                        dict(sorted(made["calls"].items())),
                        made["sent"],
                        made["received"],
                        len(body),
                    )
                )
        case.check(events, answers)
    return min(found, key=lambda each: sum(each.calls.values()))


@contextlib.contextmanager
def log_to_nowhere() -> Iterator[Callable[[str], Any]]:
    """Standard output is the log of the functions; what is yielded writes to where it went."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield lambda text: os.write(kept, text.encode())
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
