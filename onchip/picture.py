"""What came of a task, as one HTML page of :mod:`loihi.html`: curves, histograms and tables."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from loihi import charts
from loihi.html import Html, document, h, join, table
from onchip.history import Change, Point
from onchip.tasks import Report, Score


def page(report: Report, command: str = "") -> bytes:
    """The page in UTF-8; of a report without a history it has tables and histograms alone.

    command: the command line, where there was one.
    """
    return document(
        f"Learning on the chip: {report.task.name}",
        h("h1", f"Learning on the chip: {report.task.name}"),
        *(h("p", note, class_="warn") for note in report.task.notes),
        _accuracy(report),
        _setting(report, command),
        _curves(report),
        _weights(report),
        _classes(report),
    )


def _accuracy(report: Report) -> Html:
    rows = [
        _row(name, int(before.total.sum()), before.accuracy, report.after[name].accuracy)
        for name, before in report.before.items()
    ]
    caption = "what the frozen network itself has right, counted; all outputs compete in every test"
    return table(("test", "samples", "before", "after", "points"), rows, caption, right=4)


def _setting(report: Report, command: str) -> Html:
    task, learned = report.task, report.learned
    rows = [
        ("learned", f"{learned.samples:,} samples, {learned.steps:,} steps"),
        ("of them old", f"{task.replayed:,} different ones of {len(task.learn):,} an epoch"),
        ("plastic", f"{report.mode}: {', '.join(learned.changed)}"),
        ("input", f"{task.network.encoding.kind}, T = {task.network.time_steps}"),
        ("duration, measured", f"{learned.seconds:.1f} s"),
        *([("command", h("code", command))] if command else []),
    ]
    return table((), rows)


def _curves(report: Report) -> Html:
    points = [] if report.history is None else report.history.points
    if len(points) < 2:
        return Html("")
    samples = [point["samples"] for point in points]

    def figure(
        caption: str,
        names: list[str],
        value: Callable[[Point, str], float | None],
        say: charts.Say = charts.plain,
    ) -> Html:
        series = {name: [value(point, name) for point in points] for name in names}
        drawing = charts.curves(caption, samples, series, say)
        return charts.figure(join(caption, charts.key(names)), "measured", drawing)

    layers = list(points[0]["layers"])
    return join(
        h("h2", "While it learned"),
        h("p", "Over samples learned; on the first samples of each test."),
        h(
            "div",
            figure(
                "accuracy",
                list(points[0]["accuracy"]),
                lambda point, name: point["accuracy"][name],
                charts.percent,
            ),
            figure(
                "mean |Δw| since the point before, in mantissas",
                layers,
                lambda point, name: point["layers"][name]["mean_change"],
            ),
            figure(
                "weights at the limit of 8 bits",
                layers,
                lambda point, name: point["layers"][name]["saturated"],
            ),
            figure(
                "presynaptic traces, mean over steps, of 127",
                layers,
                lambda point, name: point["layers"][name]["trace"]["mean"],
            ),
            figure(
                "third factors, mean size over steps, of 127",
                layers,
                lambda point, name: point["layers"][name]["factor"]["mean"],
            ),
            *(
                [
                    figure(
                        "firing rates, spikes a neuron and step",
                        list(points[0]["rates"]),
                        lambda point, name: point["rates"][name],
                    )
                ]
                if points[0]["rates"]
                else []
            ),
            class_="grid",
        ),
    )


def _weights(report: Report) -> Html:
    headers = (
        "layer", "weights", "changed", "‖Δw‖", "of ‖w‖", "mean |Δw|", "largest |Δw|", "odd",
        "at the limit",
    )  # fmt: skip
    rows = [
        (
            change.name,
            f"{change.weights:,}",
            f"{change.changed:,}",
            f"{change.norm:,.1f}",
            "–" if math.isnan(change.relative) else f"{change.relative:.3f}",
            f"{change.mean:.3f}",
            f"{change.largest:,}",
            f"{change.odd[0]:,} → {change.odd[1]:,}",
            f"{change.saturated[0]:,} → {change.saturated[1]:,}",
        )
        for change in report.changes
    ]
    pictures = [_pictures(change) for change in report.changes if change.changed]
    return join(
        h("h2", "Weights before and after"),
        table(headers, rows, "counted, in weight units", right=8),
        *pictures,
    )


def _pictures(change: Change) -> Html:
    both = zip(("before", "after"), change.histogram, strict=True)
    return join(
        h("h3", change.name),
        h(
            "div",
            *(
                charts.figure(when, "counted", charts.histogram(f"{change.name} {when}", found))
                for when, found in both
            ),
            class_="grid",
        ),
    )


def _classes(report: Report) -> Html:
    parts = [h("h2", "By class")]
    for name, before in report.before.items():
        if name == "all" and len(report.before) > 1:  # the others together
            continue
        after = report.after[name]
        rows = [
            _row(str(label), int(before.total[label]), *_of(label, before, after))
            for label in np.flatnonzero(before.total).tolist()
        ]
        headers = ("class", "samples", "before", "after", "points")
        parts.append(table(headers, rows, f"test: {name}", right=4))
    return join(*parts)


def _of(label: int, before: Score, after: Score) -> tuple[float, float]:
    return float(before.by_class[label]), float(after.by_class[label])


def _row(name: str, samples: int, before: float, after: float) -> tuple[str, ...]:
    points = f"{100 * (after - before):+.2f}"
    return name, f"{samples:,}", f"{before:.2%}", f"{after:.2%}", points
