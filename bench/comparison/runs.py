"""One run: a peer, a workload, and what came of it."""

import itertools
import json
import os
import queue
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from . import meter, numbers, paths
from .peers import LIMIT

LOCKS = 10_000
HOLD_TTL_S = 5
CALM_S = 2
DISTURBED_CORES = 0.35

prefixes = itertools.count()


class Failed(Exception):
    """A run without a result."""


@dataclass(frozen=True)
class Workload:
    """Sizes: `c` workers, `n` acquisitions, waiters or locks, in so many processes."""

    name: str
    c: int = 1
    n: int = 2000
    warm: int = 300
    processes: int = 1
    max_s: int = 4
    """No acquisition begins after this time."""
    limit_s: int = 40
    """A run that has said nothing for so long has failed."""
    idle_s: int = 15

    @property
    def title(self):
        return {
            "w2": f"w2 C={self.c}",
            "w2x": f"w2x {self.processes}x{self.c}",
            "w3": f"w3 C={self.c}",
            "w4": f"w4 N={self.n}",
            "w6": f"w6 N={self.n}",
        }.get(self.name, self.name)


class Program:
    """A peer at work. Leaving the `with` block kills it and its children."""

    def __init__(self, peer, cluster, word, options, marked=False):
        self.limit_s = 60
        options = {"endpoint": cluster.endpoints, **options}
        words = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        command = [*peer.command, word, *words, *peer.options]
        env = {name: value for name, value in os.environ.items() if name != "BENCH_MARKS"}
        if marked:
            env["BENCH_MARKS"] = "1"
        # Next to the data of the servers, which is deleted with it.
        self.errors = cluster.dir / f"errors-{next(prefixes)}"
        with open(self.errors, "wb") as errors:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            self.process = subprocess.Popen(command, **pipes, text=True, env=env, start_new_session=True)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line.strip())
        self.lines.put(None)

    @property
    def pid(self):
        return self.process.pid

    def next_line(self, limit_s):
        try:
            line = self.lines.get(timeout=limit_s)
        except queue.Empty:
            raise Failed(f"nothing happened for {limit_s} s") from None
        if line is None:
            status = self.process.wait()
            said = " ".join(self.errors.read_text(errors="replace").split())
            raise Failed(f"ended with status {status}: {said[:200]}")
        return line

    def until(self, wanted, limit_s):
        while (line := self.next_line(limit_s)) != wanted:
            pass
        return line

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self, limit_s):
        while not (line := self.next_line(limit_s)).startswith("{"):
            pass
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process.stdin.close()


def measure(peer, workload, cluster, locker_of_parents, round_number):
    """The numbers of one run, or a failure in their place."""
    run = {"w2x": across, "w4": drain, "w5": recover, "w6": idle}.get(workload.name, contend)
    if workload.name == "w2x" and peer.kind == LIMIT:
        run = contend
    prefix = f"/bench/{workload.name}-{os.getpid()}-{next(prefixes)}"
    try:
        if workload.name == "w3" and cluster.store == "zk":
            # The parents are there beforehand, for everybody.
            with Program(locker_of_parents, cluster, "parents", {"prefix": prefix, "n": LOCKS}) as parents:
                parents.result(workload.limit_s)
        return run(peer, workload, cluster, prefix, round_number)
    except (Failed, OSError) as failure:
        return {"error": str(failure)}


def options_of(workload, prefix, records):
    options = {"prefix": prefix, "raw": records, "n": workload.n, "c": workload.c, "warm": workload.warm}
    if workload.name == "w3":
        options["locks"] = LOCKS
    return {**options, "max-s": workload.max_s}


def moment(mark, programs, workload, cluster, at_rest=False):
    """What was used when all programs had come to this mark, from which they then go on."""
    for program in programs:
        program.until(mark, workload.limit_s)
    pids = [program.pid for program in programs]
    if at_rest:
        meter.wait_for_rest([*pids, *cluster.pids], workload.limit_s)
    used = meter.now(pids, cluster)
    for program in programs:
        program.go_on()
    return used


def contend(peer, workload, cluster, prefix, _round):
    records = cluster.dir / "records"
    with Program(peer, cluster, workload.name, options_of(workload, prefix, records), marked=True) as program:
        before, after = (moment(mark, [program], workload, cluster) for mark in ("MARK begin", "MARK end"))
        result = program.result(workload.limit_s)
    if not result["done"]:
        raise Failed("no acquisition ended in time")
    costs = meter.between(before, after, result["done"])
    one_lock = workload.name == "w2"
    rate = {"ops_s": round(result["done"] / result["wall_s"], 1), "done": result["done"]}
    return rate | costs | numbers.of_records(take(records), one_lock)


def across(peer, workload, cluster, prefix, _round):
    files = [cluster.dir / f"records-{i}" for i in range(workload.processes)]
    share = replace(workload, name="w2", n=workload.n // len(files), warm=max(workload.c, workload.warm // len(files)))
    with ExitStack() as stack:
        programs = []
        for file in files:
            options = options_of(share, prefix, file)
            programs.append(stack.enter_context(Program(peer, cluster, "w2", options, marked=True)))
        before, after = (moment(mark, programs, workload, cluster) for mark in ("MARK begin", "MARK end"))
        starts = [program.result(workload.limit_s)["t0_unix_ns"] for program in programs]
    records = numbers.merge([(start, take(file)) for start, file in zip(starts, files)])
    if not records:
        raise Failed("no acquisition ended in time")
    wall_s = (max(record.released for record in records) - min(record.requested for record in records)) / 1e9
    rate = {"ops_s": round(len(records) / wall_s, 1), "done": len(records)}
    return rate | meter.between(before, after, len(records)) | numbers.of_records(records, one_lock=True)


def drain(peer, workload, cluster, prefix, _round):
    records = cluster.dir / "records"
    with Program(peer, cluster, "w4", options_of(workload, prefix, records), marked=True) as program:
        empty = moment("MARK enq", [program], workload, cluster)
        full = moment("MARK begin", [program], workload, cluster, at_rest=True)
        after = moment("MARK end", [program], workload, cluster)
        result = program.result(workload.limit_s)
    waiting = meter.between(empty, full, workload.n)
    queueing = {f"queueing_{name}": waiting[name] for name in waiting if name.endswith("_per_op")}
    queueing["kib_per_waiter"] = round((full.client_kib - empty.client_kib) / workload.n, 2)
    times = {"drain_s": result["drain_s"], "queued_s": result["queued_s"], "done": result["done"]}
    costs = meter.between(full, after, workload.n)
    return times | queueing | costs | numbers.of_records(take(records), one_lock=True)


def recover(peer, workload, cluster, prefix, round_number):
    options = {"prefix": prefix, "ttl": HOLD_TTL_S}
    with Program(peer, cluster, "hold", options) as holder:
        holder.until("HELD", workload.limit_s)
        with Program(peer, cluster, "wait", options) as waiter:
            waiter.until("WAITING", workload.limit_s)
            # Another part of the time between two renewals in each round.
            time.sleep(2 + round_number % 4 * 0.45)
            killed = time.monotonic()
            os.killpg(holder.pid, signal.SIGKILL)
            waiter.until("GRANTED", workload.limit_s)
            return {"recover_s": round(time.monotonic() - killed, 3)}


def idle(peer, workload, cluster, prefix, _round):
    with Program(peer, cluster, "holdmany", {"prefix": prefix, "n": workload.n}) as program:
        program.until("HELD", workload.limit_s)
        time.sleep(2)
        before = meter.now([program.pid], cluster)
        time.sleep(workload.idle_s)
        after = meter.now([program.pid], cluster)
    seconds = after.at - before.at
    costs = meter.between(before, after, seconds)
    return {
        "client_cpu_ms_per_s": round((after.client_fine_cpu - before.client_fine_cpu) / seconds * 1e3, 3),
        "server_cpu_ms_per_s": round((after.server_cpu - before.server_cpu) / seconds * 1e3, 3),
        "messages_per_s": costs["messages_per_op"],
        "bytes_per_s": round(costs["bytes_sent_per_op"] + costs["bytes_received_per_op"], 1),
        **{name: costs[name] for name in ("client_mib", "server_mib", "foreign_cores")},
    }


def take(path: Path):
    records = numbers.load(path)
    path.unlink()
    return records


def measure_calmly(peer, workload, cluster, locker_of_parents, round_number):
    """Repeats a run once that others on the machine disturbed."""
    for attempt in (1, 2):
        meter.wait_for_calm(CALM_S)
        result = measure(peer, workload, cluster, locker_of_parents, round_number)
        if result.get("foreign_cores", 0) < DISTURBED_CORES:
            break
    return {**result, "attempt": attempt}
