"""The status as metrics, in the text format that Prometheus and most other monitors read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from migrations_playbook.phase import Phase
from migrations_playbook.status import ShadowStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = dict[str, str]
Sample = tuple[Labels, int]


class Metric(NamedTuple):
    """A metric.

    Arguments:
        name: without the prefix of all.
        kind: "gauge" or "counter".
        meaning: its HELP, with the unit.
        read: yields the samples of a status: labels of the metric's own, and the number.
    """

    name: str
    kind: str
    meaning: str
    read: Callable[[ShadowStatus], Iterator[Sample]]


def spell_metrics(statuses: Iterable[ShadowStatus], database: str) -> str:
    """Write statuses as metrics.

    A sample that is not known (rows that row security may hide, say) is left out.

    Arguments:
        statuses: see `status.read`.
        database: the alias that they were read from, for a label.

    Returns:
        Lines in Prometheus's text format, each metric with HELP and TYPE; no value of a row.
    """
    known = list(statuses)
    lines = []
    for metric in METRICS:
        name = f"playbook_{metric.name}"
        lines += [f"# HELP {name} {metric.meaning}", f"# TYPE {name} {metric.kind}"]
        for status in known:
            common = {"replacement": f"{status.model}.{status.shadow}", "database": database}
            if status.schema:
                common["schema"] = status.schema
            lines += [
                f"{name}{{{_spell_labels(common | labels)}}} {number}"
                for labels, number in metric.read(status)
            ]
    return "\n".join(lines) + "\n"


def _spell_labels(labels: Labels) -> str:
    return ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _read_phase(status: ShadowStatus) -> Iterator[Sample]:
    for phase in Phase:
        yield {"phase": str(phase)}, int(phase is status.phase)


def _read_workers(status: ShadowStatus) -> Iterator[Sample]:
    counted = Counter((each.host or "", each.what, each.why or "") for each in status.at_work)
    for (host, what, why), number in counted.items():
        yield {"host": host, "what": what.partition(" ")[0], "why": why}, number


def _read_rows(status: ShadowStatus) -> Iterator[Sample]:
    if status.rows_remaining is not None:
        yield {}, status.rows_remaining


def _read_exact(status: ShadowStatus) -> Iterator[Sample]:
    if status.rows_remaining is not None:
        yield {}, int(status.exact)


def _read_stale_writes(status: ShadowStatus) -> Iterator[Sample]:
    if status.stale_writes is not None:
        yield {}, status.stale_writes.hits


def _read_last_stale_write(status: ShadowStatus) -> Iterator[Sample]:
    if status.stale_writes is not None and status.stale_writes.last is not None:
        yield {}, round(status.stale_writes.last.timestamp())


METRICS = (
    Metric("phase", "gauge", "Where the replacement stands: 1 for its phase.", _read_phase),
    Metric("rows_remaining", "gauge", "Rows whose shadow is null.", _read_rows),
    Metric(
        "rows_remaining_exact",
        "gauge",
        "1 where these rows are counted, 0 where they are estimated from a sample.",
        _read_exact,
    ),
    Metric("workers", "gauge", "Sessions of backfills now, by host and doing.", _read_workers),
    Metric(
        "paused",
        "gauge",
        "1 while every backfill is told to wait.",
        lambda status: iter([({}, int(status.control.paused))]),
    ),
    Metric(
        "table_bytes",
        "gauge",
        "The table's size in bytes, by part.",
        lambda status: iter(
            [({"part": "heap"}, status.heap_bytes), ({"part": "indexes"}, status.index_bytes)]
        ),
    ),
    Metric(
        "refused_dependents",
        "gauge",
        "Objects bound to the columns that the swap, or its revert, would refuse.",
        lambda status: iter([({}, sum(each.refused is not None for each in status.dependents))]),
    ),
    Metric(
        "quarantine_problems",
        "gauge",
        "Missing or disabled objects of the quarantine.",
        lambda status: iter([({}, len(status.problems))]),
    ),
    Metric(
        "stale_writes_total",
        "counter",
        "Writes of a leaked value by old processes, kept off since the swap.",
        _read_stale_writes,
    ),
    Metric(
        "last_stale_write_timestamp_seconds",
        "gauge",
        "When the last stale write was, in seconds since 1970.",
        _read_last_stale_write,
    ),
)
