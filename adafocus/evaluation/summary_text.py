"""What a person reads of the summary: its tables in Markdown, and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from adafocus.evaluation.tables import PAGE, html, markdown

MODEL_HEADINGS = {
    "dataset": "data set",
    "experiment": "experiment",
    "patch_size": "patch",
    "skip_cost": "skip cost",
    "budget": "budget",
    "stage": "stage",
}
"""Columns that say which model a row is of."""


HEADINGS = MODEL_HEADINGS | {
    "seeds": "seeds",
    "metric": "metric",
    "adafocus": "accuracy",
    "random": "random",
    "centre": "centre",
    "glancer": "glancer alone",
    "oracle": "oracle",
    "gain": "of oracle's gain",
    "gflops": "GFLOPs",
    "videos_per_second": "videos/s",
}
"""Columns of the table that a person reads, and their headings."""


PUBLISHED_HEADINGS = {
    "dataset": "data set",
    "experiment": "experiment",
    "model": "model",
    "patch_size": "patch",
    "metric": "metric",
    "published": "published",
    "adafocus": "measured",
    "difference": "difference",
    "published_gflops": "GFLOPs published",
    "gflops": "counted",
}
"""Columns of the table of published figures."""


CHOICES_HEADINGS = MODEL_HEADINGS | {
    "seed": "seed",
    "places": "places",
    "commonest_place": "at the commonest",
    "centre_deviation": "deviation of centres",
    "side": "side of boxes",
    "side_deviation": "deviation of sides",
    "frame_entropy": "entropy of frames",
    "commonest_frames": "at the commonest frames",
}
"""Columns of the table of what policies chose between."""


RUN_HEADINGS = {
    "dataset": "data set",
    "experiment": "experiment",
    "title": "title",
    "patch_size": "patch",
    "skip_cost": "skip cost",
    "budget": "budget",
    "stage": "stage",
    "videos": "validation videos",
    "seed": "seed",
    "rates": "learning rates",
    "device": "evaluated on",
    "torch": "PyTorch",
    "git_commit": "commit",
    "checkpoint": "checkpoint's SHA-256",
}
"""Columns of the table of what was run."""


def in_markdown(
    rows: Sequence[dict[str, Any]],
    runs: Sequence[dict[str, Any]],
    variants: Mapping[str, Sequence[dict[str, Any]]],
    beside: Sequence[dict[str, Any]],
) -> str:
    """The tables of `as_page` but that of what was run."""
    tables = (_choices_table(runs), _variants_tables(variants), _published_table(beside))
    return _results_table(rows) + "".join(tables)


def _results_table(rows: Sequence[dict[str, Any]]) -> str:
    """All results, with notes on what the columns mean.

    Args:
        rows: as in the CSV.
    """
    columns = _columns(HEADINGS, rows)
    lines = ["# Results", "", *markdown(columns, rows), "", *_notes(rows, columns)]
    return "\n".join(lines) + "\n"


def _choices_table(runs: Sequence[dict[str, Any]]) -> str:
    """What each policy chose between, and where it always does the same; nothing where no result
    tells."""
    if not (told := _told(runs)):
        return ""
    columns = _columns(CHOICES_HEADINGS, told)
    lines = ["", "## What the policies chose between", "", *markdown(columns, told), ""]
    notes = (line for note in _choices_notes(told, columns) for line in (note, ""))
    return "\n".join([*lines, *notes])


def _variants_tables(variants: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """For each data set of several experiments what differs between them; nothing where there is
    none."""
    lines = []
    for dataset, rows in variants.items():
        table = markdown(_entry_headings(rows), rows)
        lines += ["", f"## Experiments on {dataset} differ in", "", *table]
    return "\n".join([*lines, ""]) if lines else ""


def _entry_headings(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {name: name.removeprefix("of ") for name in rows[0]}


def _published_table(beside: Sequence[dict[str, Any]]) -> str:
    """Published figures beside those measured; nothing where none are published."""
    if not beside:
        return ""
    columns = _headings(PUBLISHED_HEADINGS, beside)
    lines = ["", "## Published and measured", "", *markdown(columns, beside), ""]
    return "\n".join([*lines, _published_notes(beside)]) + "\n"


def as_page(
    rows: Sequence[dict[str, Any]],
    runs: Sequence[dict[str, Any]],
    variants: Mapping[str, Sequence[dict[str, Any]]],
    beside: Sequence[dict[str, Any]],
) -> str:
    """What was run, its results and the published figures, as a web page of its own.

    Args:
        rows: as in the CSV.
        runs: each seed's.
        variants: what differs between experiments, by data set.
        beside: published figures and those measured.
    """
    columns = _columns(HEADINGS, rows)
    parts = ["<h1>Results</h1>", *html(columns, rows)]
    parts += [f"<p>{escape(note)}</p>" for note in _notes(rows, columns) if note]
    if told := _told(runs):
        chosen = _columns(CHOICES_HEADINGS, told)
        parts += ["<h2>What the policies chose between</h2>", *html(chosen, told)]
        parts += [f"<p>{escape(note)}</p>" for note in _choices_notes(told, chosen)]
    for dataset, entries in variants.items():
        parts.append(f"<h2>Experiments on {escape(dataset)} differ in</h2>")
        parts += html(_entry_headings(entries), entries)
    if beside:
        published = _headings(PUBLISHED_HEADINGS, beside)
        parts += ["<h2>Published and measured</h2>", *html(published, beside)]
        notes = _published_notes(beside).replace("\\*", "*")
        parts.append(f"<p>{escape(notes)}</p>")
    parts += ["<h2>What was run</h2>", *html(_headings(RUN_HEADINGS, runs), runs)]
    return PAGE.format("\n".join(parts))


def _told(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs of which it is known what the policy chose between."""
    return [row for row in runs if row["places"] is not None]


def _columns(headings: Mapping[str, str], rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Those of a table, without columns that are empty."""
    return {
        name: heading
        for name, heading in _headings(headings, rows).items()
        if any(row[name] is not None for row in rows)
    }


def _headings(headings: Mapping[str, str], rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Those of a table, without the experiments where these are the data sets themselves."""
    only = all(row["experiment"] == row["dataset"] for row in rows)
    return {name: text for name, text in headings.items() if not (only and name == "experiment")}


def _choices_notes(told: Sequence[dict[str, Any]], columns: Mapping[str, str]) -> list[str]:
    notes = [
        "Places: cells of a grid in which boxes lay, of those that there are; beside it the share"
        " of looks at the commonest one. Lengths are in percent of the frame's side."
    ]
    if "frame_entropy" in columns:
        notes.append(
            "Entropy of frames, in bits: of how often each was looked at. Beside it the share of"
            " looks at the commonest frames, as many as a video has looks: 100% where they are"
            " always the same."
        )
    for row in told:
        name = f"{row['experiment']}, patch {row['patch_size']}"
        name += "" if row["stage"] is None else f", stage {row['stage']}"
        notes += [f"Warning: {name}, seed {row['seed']}: {text}." for text in row["warnings"]]
    return notes


def _published_notes(beside: Sequence[dict[str, Any]]) -> str:
    notes = ["A blank was not measured. Measured figures are of finished models."]
    if any(not row["verified"] for row in beside):
        notes.append("\\* This figure could not be checked against the paper.")
    return " ".join(notes)


def _notes(rows: Sequence[dict[str, Any]], columns: Mapping[str, str]) -> list[str]:
    notes = [
        "Accuracy in percent on the validation videos, the baselines' on the same weights; random"
        " is the mean of five draws. Patches in pixels, GFLOPs and videos/s of the model itself."
    ]
    if any(row["stage"] == 1 for row in rows):
        notes.append("Stage 1 has no policy: its accuracy is that of random patches.")
    if "seeds" in columns:
        notes.append(
            "Of several seeds it is the mean; after ± stands the standard deviation of the sample"
            " (n - 1)."
        )
    if "skip_cost" in columns:
        notes.append(
            "With a skip cost the policy skips frames (AdaFocus+): GFLOPs are those really spent,"
            " and the baselines look at the same frames."
        )
    if "budget" in columns:
        notes.append(
            "With a budget, in GFLOPs per video, videos are left as soon as the prediction is sure."
        )
    if "gain" in columns:
        notes.append(
            "The oracle's patches are centred on the truth. Of oracle's gain: how much of the way"
            " from random patches to it the model goes."
        )
    return [line for note in notes for line in (note, "")][:-1]
