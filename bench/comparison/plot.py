"""The ratios as a picture: SVG, readable on light and on dark pages."""

import math

from . import peers
from .report import STORES

LEFT, PANEL, GAP, TOP, ROW = 96, 340, 44, 92, 24
LOW, HIGH = 0.1, 300
TICKS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)

STYLE = """\
  svg { font: 13px system-ui, sans-serif; fill: #24292f; }
  .title { font-weight: 600; }
  .small { font-size: 11px; fill: #57606a; }
  .grid { stroke: #d0d7de; }
  .one { stroke: #57606a; stroke-width: 1.5; }
  .peer { fill: #0969da; }
  .limit { fill: none; stroke: #bc4c00; stroke-width: 2; }
  .peer-text { fill: #0969da; font-size: 11px; }
  @media (prefers-color-scheme: dark) {
    svg { fill: #e6edf3; }
    .small { fill: #9198a1; }
    .grid { stroke: #3d444d; }
    .one { stroke: #9198a1; }
    .peer { fill: #4493f8; }
    .limit { stroke: #f0883e; }
    .peer-text { fill: #4493f8; }
  }"""


def draw(groups):
    """One panel for each store, one row for each workload, of the groups on one kind of cluster."""
    stores = [store for store in STORES if any(group.store == store for group in groups)]
    places = {group.title: (group.workload, order(group)) for group in groups}
    titles = sorted(places, key=places.get)
    width = LEFT + len(stores) * PANEL + (len(stores) - 1) * GAP + 40
    height = TOP + len(titles) * ROW + 40
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        "<title>lock-bench: how many times as good as the best peer and the raw limit, for each workload</title>",
        f"<style>\n{STYLE}\n</style>",
        '<text class="title" x="12" y="22">lock-bench: how many times as good as …</text>',
        f'<circle class="peer" cx="18" cy="42" r="5"/><text x="30" y="46">the best peer</text>',
        f'{diamond(140, 42)}<text x="152" y="46">the raw limit of the server</text>',
        '<text class="small" x="350" y="46">(logarithmic; right of 1 is better)</text>',
    ]
    for row, title in enumerate(titles):
        out.append(f'<text x="12" y="{TOP + row * ROW + ROW / 2 + 4}">{title}</text>')
    for column, store in enumerate(stores):
        x = LEFT + column * (PANEL + GAP)
        own = {group.title: group for group in groups if group.store == store}
        out += panel(x, store, [own.get(title) for title in titles])
    return "\n".join([*out, "</svg>"]) + "\n"


def order(group):
    digits = "".join(c for c in group.title.split(" ")[-1] if c.isdigit())
    return int(digits or 0)


def panel(x, store, rows):
    bottom = TOP + len(rows) * ROW
    out = [f'<text class="title" x="{x}" y="{TOP - 18}">{STORES[store]}</text>']
    for tick in TICKS:
        at = x + scale(tick)
        kind = "one" if tick == 1 else "grid"
        out.append(f'<line class="{kind}" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{bottom}"/>')
        out.append(f'<text class="small" x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for i, group in enumerate(rows):
        ours = next((row for row in group.rows if row.kind == peers.OURS), None) if group else None
        if ours is None:
            continue
        y = TOP + i * ROW + ROW / 2
        if (ratio := group.ratios(ours, peers.LIMIT)) is not None:
            out.append(diamond(x + scale(ratio), y))
        if (ratio := group.ratios(ours, peers.LIBRARY)) is not None:
            at = x + scale(ratio)
            out.append(f'<circle class="peer" cx="{at:.1f}" cy="{y:.1f}" r="5"/>')
            out.append(f'<text class="peer-text" x="{at + 9:.1f}" y="{y + 4:.1f}">{ratio:.2g}×</text>')
        elif ours.results and not any(row.results for row in group.rows if row.kind == peers.LIBRARY):
            out.append(f'<text class="peer-text" x="{x + scale(3):.1f}" y="{y + 4:.1f}">no peer finishes</text>')
        if not ours.results:
            out.append(f'<text x="{x + scale(1) + 9:.1f}" y="{y + 4:.1f}">failed</text>')
    return out


def scale(ratio):
    bounded = min(max(ratio, LOW), HIGH)
    return PANEL * math.log(bounded / LOW) / math.log(HIGH / LOW)


def diamond(x, y):
    return f'<path class="limit" d="M{x:.1f} {y - 5.5:.1f} l5.5 5.5 l-5.5 5.5 l-5.5 -5.5 z"/>'
