"""`report.html`: the figures of a run with intervals, plots, and the worst answers with their images.

The page is one file without scripts or links. All text from data and models is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import ImageError
from ..files.atomic import write_file
from ..preprocessing.images import open_image
from ..reporting.html_page import page, table, thumbnail
from ..reporting.plots import Interval, draw_intervals, themed_plot
from .metrics import Metric
from .queries import ScoredRow
from .report_texts import TEXTS
from .results import as_estimate
from .scenes.kinds import Language

WORST = 24
LONGEST_TEXT = 600
MOST_COLUMNS = 4
ROW_INCHES = 0.32
LANGUAGE_NAMES = {"zh": "中文", "en": "English"}
HIDDEN = ("right", "confusion", "bleu", "rouge", "cider", "vqa", "exact", "mention")
"""Statistics that every row of a task has: naming them beside a row says nothing."""


def write_report(
    file: Path,
    results: Mapping[str, Any],
    metrics: Sequence[Metric],
    rows: Sequence[ScoredRow],
    language: Language,
    explained: Sequence[str] = (),
) -> None:
    """Write the page of one run; `explained` are the explanations of some of the worst answers, as HTML."""
    texts = TEXTS[language]
    pieces = [*_facts(results, texts), f"<h2>{texts['figures']}</h2>"]
    pieces += [_metric_plot(results, metrics, texts), _metric_table(results, texts)]
    pieces.append(f"<p>{texts['interval_note']} {texts['baseline_note'] if results['baselines'] else ''}</p>")
    pieces += _facet_tables(results, texts)
    pieces += [f"<h2>{texts['worst']}</h2>", _worst(rows, texts)]
    if explained:
        pieces += [f"<h2>{texts['explained']}</h2>", f"<p>{texts['explained_note']}</p>", *explained]
    title = texts["title"].format(task=results["task"])
    write_file(file, page(title, pieces, language))


def _facts(results: Mapping[str, Any], texts: Mapping[str, str]) -> Iterator[str]:
    notes = [f"{texts[name]}: {results[name]['name']}" for name in ("model", "data") if name in results]
    yield from (f"<p>{html.escape(note)}</p>" for note in [*notes, f"{texts['date']}: {results['date']}"])
    yield from (f'<p class="note">{html.escape(note)}</p>' for note in results["notes"] if results["data"]["sha256"])
    if results["data"]["sha256"] is None:
        yield f'<p class="note"><strong>{texts["drawn"]}</strong></p>'
    if results["unanswered"]:
        said = texts["unanswered"].format(count=results["unanswered"], rows=results["rows"])
        errors = "".join(f"<li>{html.escape(error)}</li>" for error in results["errors"])
        yield f'<div class="wrong"><p>{said}</p><ul>{errors}</ul></div>'
    else:
        yield f"<p>{texts['all_answered'].format(rows=results['rows'])}</p>"


def _interval(entry: Mapping[str, Any] | None) -> Interval | None:
    if entry is None or entry["value"] is None or entry["low"] is None:
        return None
    found = as_estimate(entry)
    return Interval(found.value, min(found.low, found.value), max(found.high, found.value))


def _metric_plot(results: Mapping[str, Any], metrics: Sequence[Metric], texts: Mapping[str, str]) -> str:
    """Draw the metrics with a top of 1, in all and by language where there are several."""
    names = [metric.name for metric in metrics if metric.top is not None and metric.name in results["metrics"]]
    series = {texts["value"]: [_interval(results["metrics"][name]) for name in names]}
    by_language = results["facets"].get("language", {})
    if len(by_language) > 1:
        series = {
            LANGUAGE_NAMES.get(value, value): [_interval(found.get(name)) for name in names]
            for value, found in by_language.items()
        }
        alone = [all(name not in found for found in by_language.values()) for name in names]
        both = [_interval(results["metrics"][name]) if one else None for name, one in zip(names, alone, strict=True)]
        series |= {" + ".join(series): both} if any(alone) else {}
    if not names:
        return ""
    labels = [texts.get(name, name) for name in names]
    draw = partial(draw_intervals, labels=labels, series=series, limits=(-0.02, 1.02))
    return themed_plot(draw, ", ".join(names), 1.0 + ROW_INCHES * len(names))


def _metric_table(results: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    heads = [texts[name] for name in ("metric", "value", "interval", "rows", "baseline")]
    rows = (
        [
            texts.get(name, name),
            _number(entry["value"]),
            f"{_number(entry['low'])} – {_number(entry['high'])}",
            str(entry["n"]),
            _number(results["baselines"].get(name)),
        ]
        for name, entry in results["metrics"].items()
    )
    return table(heads, rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _facet_tables(results: Mapping[str, Any], texts: Mapping[str, str]) -> Iterator[str]:
    """Build a table for each facet; with few values, they are its columns."""
    for facet, values in results["facets"].items():
        names = list(dict.fromkeys(name for found in values.values() for name in found))
        labels = [texts.get(name, name) for name in names]
        yield f"<h2>{html.escape(texts['by'].format(facet=facet))}</h2>"
        columns = [[_format_interval(found.get(name)) for name in names] for found in values.values()]
        if len(values) <= MOST_COLUMNS:
            yield table([texts["metric"], *values], zip(labels, *columns, strict=True))
        else:
            counts = [str(max(entry["n"] for entry in found.values())) for found in values.values()]
            rows = zip(values, counts, columns, strict=True)
            yield table([facet, texts["rows"], *labels], ([value, count, *cells] for value, count, cells in rows))


def _format_interval(entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry["value"] is None:
        return ""
    return f"{entry['value']:.3f} [{_number(entry['low'])}, {_number(entry['high'])}]"


def worst_rows(rows: Sequence[ScoredRow]) -> Iterator[ScoredRow]:
    """Yield the rows that are not wholly right, the worst first, those of different statistics in turn."""
    kinds: dict[str, list[ScoredRow]] = {}
    for row in sorted(rows, key=lambda row: row.quality):
        if row.quality < 1:
            kinds.setdefault(" ".join(row.statistics), []).append(row)
    longest = max(map(len, kinds.values()), default=0)
    yield from (own[turn] for turn in range(longest) for own in kinds.values() if turn < len(own))


def _worst(rows: Sequence[ScoredRow], texts: Mapping[str, str]) -> str:
    body = "".join(_worst_row(row, texts) for row in islice(worst_rows(rows), WORST))
    heads = "".join(f"<th>{texts[name]}</th>" for name in ("image", "question", "expected"))
    return f'<div class="wide"><table><tr>{heads}</tr>{body}</table></div>' if body else ""


def _worst_row(row: ScoredRow, texts: Mapping[str, str]) -> str:
    said = "".join(
        f"<p>{_text(question)}<br><strong>{_text(answer) or texts['no_answer']}</strong></p>"
        for question, answer in row.said
    )
    problems = "".join(f"<p class=wrong>{_text(error)}</p>" for error in row.errors)
    kind = html.escape(", ".join(texts.get(name, name) for name in row.statistics if name not in HIDDEN))
    return f"<tr><td>{_image(row)}<br>{kind}</td><td>{said}{problems}</td><td>{_text(row.expected)}</td></tr>"


def _text(text: str) -> str:
    short = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} …"
    return html.escape(short).replace("\n", "<br>")


def _image(row: ScoredRow) -> str:
    if row.image is None or row.errors:
        return ""
    try:
        return thumbnail(open_image(row.image()), f"row {row.row + 1}")
    except (ImageError, OSError):
        return ""


def write_comparison(file: Path, comparison: Mapping[str, Any], language: Language) -> None:
    """Write the page of two runs."""
    texts = TEXTS[language]
    facts = [
        f"{letter.upper()}: {comparison[letter]['model']['name']} ({comparison[letter]['folder']})" for letter in "ab"
    ]
    counts = {"rows": comparison["rows"], "a": comparison["only_in_a"], "b": comparison["only_in_b"]}
    facts += [f"{texts['data']}: {comparison['data']['name']}", texts["shared"].format(**counts)]
    pieces = [f"<p>{html.escape(fact)}</p>" for fact in facts]
    if comparison["data"]["sha256"] is None:
        pieces.append(f'<p class="note"><strong>{texts["drawn"]}</strong></p>')
    differences = comparison["differences"]
    pieces += [_difference_plot(differences, texts), _difference_table(differences, texts)]
    pieces.append(f"<p>{texts['interval_note']} {texts['p_note']}</p>")
    title = texts["compare_title"].format(task=comparison["task"])
    write_file(file, page(title, pieces, language))


def _difference_plot(differences: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    shown = {name: _interval(entry | {"n": 0}) for name, entry in differences.items()}
    names = [name for name, one in shown.items() if one is not None]
    if not names:
        return ""
    ends = [abs(end) for name in names if (one := shown[name]) is not None for end in (one.low, one.high)]
    limit = max(0.05, *ends) * 1.1

    def draw(axes: Any) -> None:
        axes.axvline(0, color=axes.xaxis.label.get_color(), linewidth=1)
        draw_intervals(
            axes,
            [texts.get(name, name) for name in names],
            {texts["difference"]: [shown[name] for name in names]},
            (-limit, limit),
        )

    return themed_plot(draw, texts["difference"], 1.0 + ROW_INCHES * len(names))


def _difference_table(differences: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    names = ("difference", "interval", "rows", "p_bootstrap", "p_mcnemar", "only")
    heads = [texts["metric"], "A", "B", *(texts[name] for name in names)]
    return table(heads, (_difference_row(name, entry, texts) for name, entry in differences.items()))


def _difference_row(name: str, entry: Mapping[str, Any], texts: Mapping[str, str]) -> list[str]:
    interval = f"{_number(entry['low'])} – {_number(entry['high'])}"
    tests = ["" if entry[p] is None else f"{entry[p]:.4f}" for p in ("p_bootstrap", "p_mcnemar")]
    only = f"{entry['only_a']} / {entry['only_b']}" if entry["p_mcnemar"] is not None else ""
    cells = [_number(entry["a"]), _number(entry["b"]), _number(entry["value"]), interval, str(entry["n"])]
    return [texts.get(name, name), *cells, *tests, only]
