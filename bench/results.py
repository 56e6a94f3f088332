"""What came out: samples by case, contender and round, and the figures made of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Callable

from cases import GOALS, Case, Goal

Samples = list[dict[str, float]]

PEERS = ("haproxy", "relay")


# A contender of ours is called after its build and its settings: `portcullis:plain`.


def is_ours(contender: str) -> bool:
    return ":" in contender


def build_of(contender: str) -> str:
    return contender.partition(":")[0]


def setting_of(contender: str) -> str:
    return contender.partition(":")[2]


@dataclass(frozen=True)
class Figure:
    """A median, and the smallest and largest of the rounds."""

    middle: float
    least: float
    most: float


@dataclass
class Results:
    #: Case, then contender, then rounds.
    samples: dict[str, dict[str, Samples]] = field(default_factory=dict)
    #: Case, then contender: why there are none, or no more.
    failures: dict[str, dict[str, str]] = field(default_factory=dict)
    #: Case, then contender: why it is not able to do what the case asks for.
    unable: dict[str, dict[str, str]] = field(default_factory=dict)
    #: Contender: why it takes no part at all.
    skipped: dict[str, str] = field(default_factory=dict)
    #: Contender: what it is called, which version it is, how it was started.
    titles: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)
    #: What the run was like: machine, date, command.
    facts: dict[str, str] = field(default_factory=dict)
    #: Our builds by name; the goals are for the last one.
    builds: list[str] = field(default_factory=lambda: ["portcullis"])

    def figure(self, case: str, contender: str, column: str) -> Figure | None:
        return _figure([sample[column] for sample in self.samples.get(case, {}).get(contender, [])])

    def ratio(self, case: str, contender: str, against: str, column: str) -> Figure | None:
        """Round by round, since a machine's mood lasts longer than a round and so strikes both."""
        rows = self.samples.get(case, {})
        pairs = zip(rows.get(contender, []), rows.get(against, []))
        return _figure([one[column] / other[column] for one, other in pairs if other[column] > 0])

    def references(self, case: Case) -> list[tuple[str, Callable[[str], str]]]:
        """What a case's rows are compared with, each as its title and whom it names for a contender: HAProxy and the
        relay; where only we take part, the first of our settings; and the first of several builds.
        """
        rows = self.samples[case.key]
        found = [(self.titles[peer], lambda _, peer=peer: peer) for peer in PEERS if peer in rows]
        if not found and len(case.ours) > 1:
            found.append((self.titles[next(iter(rows))], lambda key: f"{build_of(key)}:{case.ours[0]}"))
        if len(self.builds) > 1:
            found.append((self.builds[0], lambda key: f"{self.builds[0]}:{setting_of(key)}"))
        return found

    def reached(self, goal: Goal) -> Figure | None:
        """What came out for a goal, in its unit."""
        build = self.builds[-1]
        contender = f"{build}:{goal.setting}"
        if not goal.against:
            figure = self.figure(goal.case, contender, goal.column)
            return figure and Figure(*(value * goal.scale for value in asdict(figure).values()))
        if goal.against == "peers":
            rivals = [key for key in self.samples.get(goal.case, {}) if not is_ours(key) and key != "relay"]
            ratios = [self.ratio(goal.case, contender, rival, goal.column) for rival in rivals]
            return max((ratio for ratio in ratios if ratio), key=lambda ratio: ratio.middle, default=None)
        ours = f"{build}:{goal.against}"
        known = ours if ours in self.samples.get(goal.case, {}) else goal.against
        return self.ratio(goal.case, contender, known, goal.column)

    def goals(self) -> list[tuple[Goal, Figure]]:
        """Those that this run can tell about."""
        told = ((goal, self.reached(goal)) for goal in GOALS)
        return [(goal, figure) for goal, figure in told if figure]

    def foreign(self) -> Figure | None:
        """How many cores other programs took in a round."""
        rows = (sample for case in self.samples.values() for samples in case.values() for sample in samples)
        return _figure([sample["foreign"] for sample in rows if "foreign" in sample])

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))


def _figure(values: list[float]) -> Figure | None:
    return Figure(median(values), min(values), max(values)) if values else None
