"""All statistics, the same for every peer: from the records of the acquisitions to the numbers in the tables."""

import statistics
from collections import Counter
from typing import NamedTuple


class Record(NamedTuple):
    """One acquisition; times in nanoseconds since the pass began."""

    worker: int
    ticket: int
    requested: int
    granted: int
    releasing: int
    released: int


def load(path):
    with open(path) as lines:
        return [Record(*map(int, line.split(","))) for line in lines]


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def merge(passes):
    """The records of several processes as if they were of one, given as (start in Unix time, records).

    A request takes its place in the queue when it is made."""
    first = min(start for start, _ in passes)
    merged = []
    for process, (start, records) in enumerate(passes):
        shift = start - first
        for record in records:
            times = [time + shift for time in record[2:]]
            merged.append(Record(record.worker + 1_000_000 * process, times[0], *times))
    return merged


def of_records(records, one_lock):
    """Latencies in microseconds, and with `one_lock` what tells whether it was fair and held by one at a time."""
    if not records:
        return {}

    def microseconds(values, name, percents=(50, 99)):
        return {f"{name}_p{percent}_us": round(percentile(values, percent) / 1e3, 1) for percent in percents}

    waits = [record.granted - record.requested for record in records]
    numbers = microseconds(waits, "acquire") | microseconds([r.released - r.releasing for r in records], "release")
    if not one_lock or len(records) < 2:
        return numbers
    granted = sorted(records, key=lambda record: record.granted)
    pairs = list(zip(granted, granted[1:]))
    numbers |= microseconds([after.granted - before.releasing for before, after in pairs], "handover")
    numbers["overlaps"] = sum(after.granted < before.releasing for before, after in pairs)
    # How many places a grant was away from its place in the order of the requests.
    place = {ticket: i for i, ticket in enumerate(sorted(record.ticket for record in records))}
    away = [abs(place[record.ticket] - i) for i, record in enumerate(granted)]
    numbers["displaced_mean"], numbers["displaced_max"] = round(statistics.mean(away), 2), max(away)
    grants = Counter(record.worker for record in records).values()
    numbers["grants_min"], numbers["grants_max"] = min(grants), max(grants)
    return numbers


def summary(values):
    """(median, smallest, largest)"""
    return statistics.median(values), min(values), max(values)


def ratio(value, other, higher_is_better):
    """How many times as good as the other."""
    if not value or not other:
        return None
    return value / other if higher_is_better else other / value
