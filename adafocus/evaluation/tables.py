"""Rows of results as tables for people, in Markdown and in HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from adafocus.figures import METRICS

TEXT = (
    "dataset",
    "experiment",
    "entry",
    "title",
    "metric",
    "model",
    "rates",
    "device",
    "torch",
    "git_commit",
    "checkpoint",
)
"""Columns that are flush left."""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<title>AdaFocus: results</title>
<style>
body {{ font: 15px/1.5 sans-serif; color: #222; margin: 2em; }}
div {{ overflow-x: auto; }}
p {{ max-width: 50em; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.3em 0.7em; border-bottom: 1px solid #ddd; text-align: right; }}
th {{ border-bottom: 2px solid #666; vertical-align: bottom; }}
.text, td {{ white-space: nowrap; }}
.text {{ text-align: left; }}
</style>
</head>
<body>
{}
</body>
</html>
"""


def html(headings: Mapping[str, str], rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of an HTML table."""

    def line(tag: str, cells: Mapping[str, str]) -> str:
        filled = (
            f'<{tag} class="text">{escape(text)}</{tag}>'
            if name in TEXT
            else f"<{tag}>{escape(text)}</{tag}>"
            for name, text in cells.items()
        )
        return f"<tr>{''.join(filled)}</tr>"

    body = [line("td", {name: _cell(name, row) for name in headings}) for row in rows]
    return ["<div><table>", line("th", headings), *body, "</table></div>"]


def markdown(headings: Mapping[str, str], rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a Markdown table that also reads well as plain text, line by line."""
    cells = [list(headings.values())]
    cells += [[_cell(name, row) for name in headings] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    is_text = [name in TEXT for name in headings]
    rule = [
        ":" + "-" * (width - 1) if text else "-" * (width - 1) + ":"
        for width, text in zip(widths, is_text, strict=True)
    ]
    padded = [
        [
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, is_text, strict=True)
        ]
        for line in (cells[0], rule, *cells[1:])
    ]
    return [f"| {' | '.join(line)} |" for line in padded]


def _cell(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if value is None:
        return ""
    match name:
        case "git_commit" | "checkpoint":
            return f"{value[:12]}-dirty" if value.endswith("-dirty") else f"{value[:12]}"
        case "gain" | "commonest_place" | "commonest_frames":
            return f"{value:.1f}%"
        case "centre_deviation" | "side" | "side_deviation":
            return f"{100 * value:.1f}%"
        case "frame_entropy":
            return f"{value:.2f}"
        case "metric":
            return METRICS[value]
        case "skip_cost" | "budget":
            return f"{value:g}"
        case "gflops" | "published_gflops":
            return f"{value:.2f}" if value < 1 else f"{value:.1f}"
        case "published":
            return f"{value:.1f}" + ("" if row["verified"] else "*")
        case "difference":
            return f"{value:+.1f}"
        case _:
            text = f"{value:.1f}" if isinstance(value, float) else str(value)
            apart = row.get(f"{name}_deviation")
            return text if apart is None else f"{text} ± {apart:.1f}"
