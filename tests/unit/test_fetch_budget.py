"""How often one session may fetch."""

from keyferry.vault.fetch_budget import BURST, FetchBudget


def test_a_burst_and_then_the_rest_of_the_interval() -> None:
    now = [100]
    budget = FetchBudget(60, lambda: now[0])
    assert [budget.take("s") for _ in range(BURST)] == [0] * BURST
    now[0] += 20
    assert budget.take("s") == 40
    assert budget.take("other") == 0
    now[0] += 39
    assert budget.take("s") == 1, "being refused does not prolong it"
    now[0] += 1
    assert budget.take("s") == 0


def test_a_clock_set_back_forgives() -> None:
    now = [100]
    budget = FetchBudget(60, lambda: now[0])
    for _ in range(BURST):
        budget.take("s")
    now[0] = 99
    assert budget.take("s") == 0


def test_switched_off() -> None:
    budget = FetchBudget(0, lambda: 100)
    assert not any(budget.take("s") for _ in range(3 * BURST))


def test_memory_is_bounded() -> None:
    budget = FetchBudget(60, lambda: 100)
    for n in range(10_050):
        budget.take(str(n))
    assert len(budget._taken) == 10_000
    assert "0" not in budget._taken
