"""`BENCHMARKS.md`: the goals, a table for every case, and all that somebody needs to repeat it."""

from __future__ import annotations

from cases import CASES, Case
from results import Figure, Results

#: How many cores other programs may take before a run says so in bold.
QUIET = 0.2


def write(results: Results, plot: str) -> str:
    return "\n\n".join([*_opening(results, plot), *_goals(results), *_cases(results), *_how(results)]) + "\n"


def _opening(results: Results, plot: str) -> list[str]:
    facts = results.facts
    lines = [
        "# Benchmarks",
        f"Written by `{facts['command']}` on {facts['date']}; [bench/README.md](bench/README.md) says how to repeat it, "
        "what is fair about it and what is not.",
        f"{facts['processor']}, {facts['memory']}, {facts['kernel']}. Portcullis: {facts['portcullis']}.",
        "CPU µs is what the gateway's processes took per request, user and system together: less is better. Figures "
        f"are medians of {facts['rounds']} rounds of {facts['seconds']} s in which everybody had a turn, with the "
        "smallest and the largest in parentheses. Ratios are made round by round.",
    ]
    foreign = results.foreign()
    if foreign:
        noisy = "That is **not quiet**: believe the ratios rather than the times, and those not much."
        lines.append(
            f"Other programs on the machine kept {foreign.middle:.2f} of its cores busy meanwhile, {foreign.most:.2f} "
            f"in the worst round. {noisy if foreign.most > QUIET else 'That is quiet enough.'}"
        )
    if "plain" in results.samples:
        lines.append(f"![CPU per request]({plot})")
    return lines


def _goals(results: Results) -> list[str]:
    rows = []
    for goal, figure in results.goals():
        digits = 2 if goal.against else 1
        sign, here = ("yes" if figure.middle <= goal.limit else "**no**"), _spread(figure, digits)
        rows.append(f"| {goal.text} | ≤ {goal.limit:g}{goal.unit} | {here} | {sign} |")
    if not rows:
        return []
    return ["## Goals", "\n".join(["| | goal | here | reached |", "|---|---|---|---|", *rows])]


def _cases(results: Results) -> list[str]:
    return [text for case in CASES if case.key in results.samples for text in _case(results, case)]


def _case(results: Results, case: Case) -> list[str]:
    references = results.references(case)
    first, *others = case.columns
    ratios = [f"× {title}" for title, _ in references]
    titles = ["", first.title, *ratios, *(column.title for column in others)]
    table = [_row(titles), _row(["---"] + ["---:"] * (len(titles) - 1))]
    for key, samples in results.samples[case.key].items():
        if not samples:
            continue
        figures = [results.figure(case.key, key, column.name) for column in case.columns]
        cells = [_spread(figures[0], first.digits, first.scale)]
        for _, reference in references:
            other = reference(key)
            figure = results.ratio(case.key, key, other, first.name)
            cells.append("1" if key == other else _spread(figure, 2) if figure else "")
        cells += [column.show(figure.middle) for column, figure in zip(others, figures[1:])]
        table.append(_row([results.titles[key], *cells]))
    out = {key: ("dropped out", reason) for key, reason in results.failures.get(case.key, {}).items()}
    out |= {key: ("not able", reason) for key, reason in results.unable.get(case.key, {}).items()}
    if case.peers:
        out = {key: ("skipped", reason) for key, reason in results.skipped.items()} | out
    notes = []
    for key, (how, reason) in out.items():
        if not results.samples[case.key].get(key):
            table.append(_row([results.titles[key], how] + [""] * (len(titles) - 2)))
        notes.append(f"{results.titles[key]} {'is ' if how == 'not able' else ''}{how}: {' '.join(reason.split())}")
    for column, said in (("lost", "of its log lines or segments were dropped"), ("errors", "of the answers were errors")):
        for key, samples in results.samples[case.key].items():
            worst = max((sample.get(column, 0.0) for sample in samples), default=0.0)
            if worst > 0:
                notes.append(f"{results.titles[key]}: up to {worst:.2%} {said}.")
    return [f"## {case.title}", case.what, "\n".join(table), *(["\n".join(f"- {note}" for note in notes)] if notes else [])]


def _how(results: Results) -> list[str]:
    rows = [
        _row([results.titles[key], results.versions.get(key, ""), f"`{command}`"])
        for key, command in results.commands.items()
    ]
    table = "\n".join([_row(["", "version", "command"]), _row(["---"] * 3), *rows])
    return ["## Who took part", table, f"Load: {results.facts['load']}."]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _spread(figure: Figure, digits: int, scale: float = 1.0) -> str:
    middle, least, most = (f"{value * scale:,.{digits}f}" for value in (figure.middle, figure.least, figure.most))
    return middle if least == most else f"{middle} ({least}–{most})"
