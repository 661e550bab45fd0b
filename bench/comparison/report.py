"""From the journal to tables in Markdown."""

from collections import defaultdict
from typing import NamedTuple

from . import numbers, peers

STORES = {"etcd": "etcd", "zk": "ZooKeeper"}


class Column(NamedTuple):
    title: str
    key: str
    digits: int = 3


class Table(NamedTuple):
    text: str
    """What the ratios are made of."""
    main: Column
    higher_is_better: bool
    columns: list


RATE = Column("per second", "ops_s")
HANDOVER = [Column("hand-over p50 µs", "handover_p50_us"), Column("p99 µs", "handover_p99_us")]
ORDER = [Column("out of order, mean", "displaced_mean"), Column("max", "displaced_max"), Column("overlaps", "overlaps")]
COSTS = [
    Column("client CPU µs", "client_cpu_us_per_op"),
    Column("server CPU µs", "server_cpu_us_per_op"),
    Column("messages", "messages_per_op"),
    Column("fsyncs", "fsyncs_per_op"),
]
MEMORY = Column("client MiB", "client_mib")
ACQUIRE = [Column("acquire p50 µs", "acquire_p50_us"), Column("p99 µs", "acquire_p99_us")]
RELEASE = [Column("release p50 µs", "release_p50_us")]

TABLES = {
    "w1": Table("One client takes and releases one lock.", RATE, True, [*ACQUIRE, *RELEASE, *COSTS, MEMORY]),
    "w2": Table("C workers of one process on one lock.", RATE, True, [*HANDOVER, *ORDER, *COSTS, MEMORY]),
    "w2x": Table(
        "The same with several processes (processes x workers): hand-overs cross sessions.",
        RATE,
        True,
        [*HANDOVER, *ORDER, *COSTS, MEMORY],
    ),
    "w3": Table("C workers on 10,000 locks, chosen at random.", RATE, True, [*ACQUIRE, *RELEASE, *COSTS, MEMORY]),
    "w4": Table(
        "N waiters queue up behind a holder, who lets go: the time until the last one has the lock. Costs are per waiter;\n"
        "*queueing* is the part before the holder lets go, and *KiB per waiter* how much the client's memory grew in it.",
        Column("drain s", "drain_s"),
        False,
        [
            Column("queueing s", "queued_s"),
            *HANDOVER,
            *ORDER,
            Column("queueing: bytes received", "queueing_bytes_received_per_op"),
            Column("queueing: server CPU µs", "queueing_server_cpu_us_per_op"),
            *COSTS,
            Column("KiB per waiter", "kib_per_waiter"),
            MEMORY,
        ],
    ),
    "w5": Table(
        "The holder is killed with `kill -9`, with a ttl of 5 s: the time until the next one has the lock.",
        Column("recovery s", "recover_s"),
        False,
        [],
    ),
    "w6": Table(
        "One client holds N locks and does nothing else.",
        Column("client CPU ms per s", "client_cpu_ms_per_s"),
        False,
        [
            Column("server CPU ms per s", "server_cpu_ms_per_s"),
            Column("messages per s", "messages_per_s"),
            Column("bytes per s", "bytes_per_s"),
            MEMORY,
        ],
    ),
}


class Row(NamedTuple):
    peer: str
    kind: str
    results: list
    errors: list

    def values(self, key):
        return [result[key] for result in self.results if key in result]

    def middle(self, key):
        values = self.values(key)
        return numbers.summary(values)[0] if values else None


class Group(NamedTuple):
    """What is compared: one workload in one size on one store."""

    store: str
    nodes: int
    data: str
    workload: str
    title: str
    rows: list

    def ratios(self, row, kind):
        """How many times as good a row is as the best of a kind."""
        table = TABLES[self.workload]
        values = [other.middle(table.main.key) for other in self.rows if other.kind == kind]
        values = [value for value in values if value is not None]
        if not values:
            return None
        best = (max if table.higher_is_better else min)(values)
        return numbers.ratio(row.middle(table.main.key), best, table.higher_is_better)


def groups(runs):
    kinds = {(peer.store, peer.name): peer.kind for peer in peers.all_peers("lock-bench")}
    order = list(kinds)
    found = defaultdict(lambda: defaultdict(list))
    for run in runs:
        key = (run["store"], run["nodes"], run["data"], run["workload"], run["c"], run["n"], run["title"])
        found[key][run["peer"]].append(run)
    made = []
    for key in sorted(found):
        store, nodes, data, workload, _, _, title = key
        rows = []
        for name in sorted(found[key], key=lambda name: order.index((store, name))):
            results = [run for run in found[key][name] if "error" not in run]
            errors = [run["error"] for run in found[key][name] if "error" in run]
            rows.append(Row(name, kinds[store, name], results, errors))
        made.append(Group(store, nodes, data, workload, title, rows))
    return made


def show(value, digits=3):
    if value is None:
        return "–"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def table_of(group):
    table = TABLES[group.workload]
    heads = [group.title, "runs", table.main.title, "of best peer", "of raw limit"]
    heads += [column.title for column in table.columns]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in group.rows:
        runs = f"{len(row.results)}" + (f" + {len(row.errors)} failed" if row.errors else "")
        cells = [f"**{row.peer}**" if row.kind == peers.OURS else row.peer, runs]
        values = row.values(table.main.key)
        if not values:
            cells += ["failed: " + row.errors[-1].replace("|", "/")[:90], *[""] * (len(heads) - 3)]
            lines.append("| " + " | ".join(cells) + " |")
            continue
        median, smallest, largest = numbers.summary(values)
        spread = f" ({show(smallest)}–{show(largest)})" if len(values) > 1 else ""
        cells.append(show(median) + spread)
        cells += [show(group.ratios(row, kind)) for kind in (peers.LIBRARY, peers.LIMIT)]
        for column in table.columns:
            # One overlap in one run is one too many: the worst is shown, not the median.
            worst = column.key in ("overlaps", "displaced_max")
            values = row.values(column.key)
            cells.append(show(max(values) if worst else numbers.summary(values)[0]) if values else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def overlaps(runs):
    return [run for run in runs if run.get("overlaps")]


INTRODUCTION = """\
# Benchmarks

This library, other lock libraries, and the limit of the servers, side by side on one machine: the same workloads, in the same
hour, on the same freshly started server, every number computed by the same code.

"""

READING = """\
## How to read the tables

- Each number is the median of the runs; in brackets, the smallest and the largest. Failed runs are counted and named.
- *Of best peer*, *of raw limit*: how many times as good as the best of the other libraries, and as the best of the raw
  probes. More than 1 is better, also where less time or CPU is better.
- **lock-bench** is this library through its public API as most will use it: workers on a runtime of two threads, renewals on a
  thread of the library. *One thread* has everything on one (`--threads 1 --shared-runtime`), as the probes do.
- `reach-…` are probes of a good recipe without a library around it: they neither reconnect nor let a waiter give up.
  `raw-…` is no lock: the least that the server has to do for this workload. bench/peers/README.md says what each does.
- *Hand-over*: from the moment at which a holder begins to release to the next grant. *Out of order*: how many places a grant
  was away from the order of the requests. Two that ask at the same moment can change places on their way, so that means
  below 1 are first come, first served; in w4 all ask at the same moment, and the order in which they get there is free.
  *Overlaps*: grants before the holder before had begun to release; any is a bug.
- Costs are per acquisition: CPU time of all client processes and of all servers, messages from clients to the servers
  (etcd: gRPC messages; ZooKeeper: packets) and fsyncs of the servers' logs, of all nodes together.
- zookeeper-client releases in the background: its release takes no time, and what it costs is paid by the next acquire.
"""


def document(journal, plot, command):
    text = [INTRODUCTION]
    if found := overlaps(journal.runs):
        text.append("## Two at once\n\nThese runs had two holders of one lock at the same time. **Their numbers do not count.**\n")
        lines = (f"- {run['peer']}, {run['store']}, {run['title']}: {run['overlaps']} overlaps" for run in found)
        text.append("\n".join(lines) + "\n")
    text.append(f"![How many times as good as the best peer and the raw limit]({plot})\n")
    text.append(setting(journal, command))
    text.append(READING)
    heading = part = None
    for group in groups(journal.runs):
        place = f"{STORES[group.store]}, {group.nodes} node{'s' if group.nodes > 1 else ''}, data on {group.data}"
        if place != heading:
            heading, part = place, None
            text.append(f"## {place}\n")
        if group.workload != part:
            part = group.workload
            text.append(f"### {part}\n\n{TABLES[part].text}\n")
        text.append(table_of(group) + "\n")
    return "\n".join(text)


def setting(journal, command):
    def all_of(key):
        return ", ".join(dict.fromkeys(str(machine["machine"][key]) for machine in journal.machines))

    versions = defaultdict(dict)
    for machine in journal.machines:
        for name, version in machine["machine"]["peers"].items():
            versions[name.split(" ")[0]][version] = None
    servers = defaultdict(dict)
    for run in journal.runs:
        servers[STORES[run["store"]]][run["server"]] = None
    lines = ["## Where and with what\n", "| | |", "|---|---|"]
    lines.append(f"| date | {all_of('date')} |")
    size = f"{all_of('cores')} cores, {all_of('memory_gib')} GiB"
    lines.append(f"| machine | {all_of('cpu')}, {size}; clients and servers share it |")
    lines.append(f"| kernel | {all_of('kernel')} |")
    lines.append(f"| this library | {all_of('commit')} |")
    versions.pop("lock-bench", None)
    for title, found in (("servers", servers), ("peers", versions)):
        lines.append(f"| {title} | {', '.join(f'{name} ' + ' and '.join(found[name]) for name in found)} |")
    lines.append(f"\nTo repeat it, build what bench/peers/README.md names, and then:\n\n    {command}\n")
    return "\n".join(lines)
