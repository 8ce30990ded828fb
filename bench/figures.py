"""What was measured: rows of a table, each with all of its rounds and, where there is one, its goal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import sub, truediv
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A bound for a row's outcome."""

    bound: float
    at_most: bool = False

    def is_met(self, outcome: float) -> bool:
        """Whether an outcome keeps the bound."""
        return outcome <= self.bound if self.at_most else outcome >= self.bound

    def fulfilment(self, outcome: float) -> float:
        """How many times as good as asked for: 1 is just good enough, less is not; a million at most."""
        return self.bound / max(outcome, self.bound / 1e6) if self.at_most else outcome / self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """One figure.

    ``ours`` and ``theirs`` are medians over the rounds, in ``unit``. ``outcome`` is what is judged: the median over the
    rounds of the ratio or difference within each, or ``ours`` where there is no contender. A contender that could not
    be run has no figures, and ``note`` says why.
    """

    figure: str
    unit: str
    ours: float | None = None
    contender: str = ""
    theirs: float | None = None
    outcome: float | None = None
    outcome_unit: str = ""
    goal: Goal | None = None
    note: str = ""
    rounds: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; ``None`` where there is no goal or no figure."""
        return None if self.goal is None or self.outcome is None else self.goal.is_met(self.outcome)


def alone(figure: str, unit: str, ours: Sequence[float], goal: Goal | None = None) -> Row:
    """A figure without a contender, from its rounds."""
    middle = median(ours)
    return Row(figure, unit, ours=middle, outcome=middle, outcome_unit=unit, goal=goal, rounds={"ours": list(ours)})


def _paired(
    judge: Callable[[float, float], float],
    figure: str,
    unit: str,
    ours: Sequence[float],
    contender: str,
    theirs: Sequence[float],
    goal: Goal | None = None,
) -> Row:
    outcome = median(judge(one, other) for one, other in zip(ours, theirs, strict=True))
    return Row(
        figure,
        unit,
        ours=median(ours),
        contender=contender,
        theirs=median(theirs),
        outcome=outcome,
        outcome_unit=unit if judge is sub else "",
        goal=goal,
        rounds={"ours": list(ours), "theirs": list(theirs)},
    )


ratio = partial(_paired, truediv)
difference = partial(_paired, sub)
"""Rows of a figure and a contender's: ours divided by theirs, and ours minus theirs, round by round."""
