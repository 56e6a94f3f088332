"""The plot: CPU per request, a bar a contender, its whisker from the best round to the worst. Plain SVG."""

from __future__ import annotations

from html import escape

from results import Results, is_ours

LEFT, RIGHT, WIDTH, ROW, BAR, TOP = 250, 110, 860, 30, 18, 56

STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #1f2328 }
  .small { font-size: 12px; fill: #656d76 }
  .user { fill: #2f6fde } .system { fill: #9dbdf5 }
  .ours.user { fill: #c2410c } .ours.system { fill: #f5b08a }
  .whisker { stroke: #1f2328; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 } .whisker { stroke: #e6edf3 }
  }
"""


def draw(results: Results, case: str, title: str) -> str:
    rows = []
    for key in results.samples.get(case, {}):
        figures = [results.figure(case, key, column) for column in ("cpu", "user", "system")]
        if all(figures):
            rows.append((key, *figures))
    rows.sort(key=lambda row: row[1].middle)
    height = TOP + ROW * len(rows) + 14
    longest = max((row[1].most for row in rows), default=1.0)
    scale = (WIDTH - LEFT - RIGHT) / longest

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}: CPU µs per request</title>",
        f"<style>{STYLE}</style>",
        f'<text x="{LEFT}" y="22">{escape(title)}: CPU µs per request, less is better</text>',
        f'<text class="small" x="{LEFT}" y="42">dark: in the program; light: in the kernel for it; '
        "line: best to worst round</text>",
    ]
    for number, (key, cpu, user, system) in enumerate(rows):
        top = TOP + ROW * number
        middle = top + ROW / 2
        ours = "ours " if is_ours(key) else ""
        # User and system are medians of their own; the bar is as long as the median of the sum.
        split = cpu.middle * user.middle / (user.middle + system.middle)
        lines += [
            f'<text x="{LEFT - 10}" y="{middle + 5:.1f}" text-anchor="end">{escape(results.titles[key])}</text>',
            _bar(f"{ours}user", LEFT, middle, split * scale),
            _bar(f"{ours}system", LEFT + split * scale, middle, (cpu.middle - split) * scale),
            f'<line class="whisker" x1="{LEFT + cpu.least * scale:.1f}" x2="{LEFT + cpu.most * scale:.1f}" '
            f'y1="{middle:.1f}" y2="{middle:.1f}"/>',
            f'<text x="{LEFT + cpu.most * scale + 8:.1f}" y="{middle + 5:.1f}">{cpu.middle:.1f}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _bar(kind: str, left: float, middle: float, width: float) -> str:
    return f'<rect class="{kind}" x="{left:.1f}" y="{middle - BAR / 2:.1f}" width="{width:.1f}" height="{BAR}"/>'
