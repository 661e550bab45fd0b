"""Counters of processes, of the kernel and of the servers at one moment, and what lies between two of them."""

import os
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def cpu_of(pid):
    """Seconds, with those of children that have ended. The kernel tells hundredths."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / TICK


def fine_cpu_of(pid):
    """Seconds, to the nanosecond, of the threads that live."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def resident_kib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def machine_cpu():
    """Seconds that all cores have worked."""
    with open("/proc/stat") as stat:
        fields = list(map(int, stat.readline().split()[1:9]))
    return (sum(fields) - fields[3] - fields[4]) / TICK


def socket_bytes(pid):
    """Bytes (sent, received) over the TCP connections that a process has; nothing without `ss`."""
    try:
        listing = subprocess.run(["ss", "-tinpH", "state", "established"], capture_output=True, text=True).stdout
    except OSError:
        return 0, 0
    sent = received = 0
    own = False
    for line in listing.splitlines():
        if not line[:1].isspace():
            own = f"pid={pid}," in line
        elif own:
            sent += sum(map(int, re.findall(r"\bbytes_sent:(\d+)", line)))
            received += sum(map(int, re.findall(r"\bbytes_received:(\d+)", line)))
    return sent, received


@dataclass
class Moment:
    """What has been used up to now: by clients, by the servers, and by the machine."""

    at: float
    client_cpu: float
    client_fine_cpu: float
    client_kib: int
    server_cpu: float
    server_kib: int
    machine_cpu: float
    sent: int
    received: int
    counters: dict = field(default_factory=dict)


def now(clients, cluster):
    # The servers' counters first: to ask for them costs CPU time, which is then not in what follows.
    counters = cluster.counters()
    bytes_of = [socket_bytes(pid) for pid in clients]
    return Moment(
        at=time.monotonic(),
        client_cpu=sum(map(cpu_of, clients)),
        client_fine_cpu=sum(map(fine_cpu_of, clients)),
        client_kib=sum(map(resident_kib, clients)),
        server_cpu=sum(map(cpu_of, cluster.pids)),
        server_kib=sum(map(resident_kib, cluster.pids)),
        machine_cpu=machine_cpu(),
        sent=sum(sent for sent, _ in bytes_of),
        received=sum(received for _, received in bytes_of),
        counters=counters,
    )


def between(before, after, operations):
    """What a stretch cost, per operation."""
    client, server = after.client_cpu - before.client_cpu, after.server_cpu - before.server_cpu
    counted = {name: count - before.counters.get(name, 0) for name, count in after.counters.items()}
    messages = {name.removeprefix("message:"): n for name, n in counted.items() if name.startswith("message:")}
    elapsed = max(after.at - before.at, 0.001)
    foreign = after.machine_cpu - before.machine_cpu - client - server
    return {
        "client_cpu_us_per_op": round(client / operations * 1e6, 1),
        "server_cpu_us_per_op": round(server / operations * 1e6, 1),
        "messages_per_op": round(sum(messages.values()) / operations, 3),
        "messages_by_kind": {name: round(n / operations, 3) for name, n in messages.items() if n / operations >= 0.005},
        "fsyncs_per_op": round(counted.get("fsync", 0) / operations, 3),
        "bytes_sent_per_op": round((after.sent - before.sent) / operations, 1),
        "bytes_received_per_op": round((after.received - before.received) / operations, 1),
        "client_mib": round(after.client_kib / 1024, 1),
        "server_mib": round(after.server_kib / 1024, 1),
        # Cores that others kept busy: how far the run was disturbed.
        "foreign_cores": round(max(0.0, foreign / elapsed), 2),
    }


def wait_for_calm(limit_s):
    """Until nobody works on this machine, or that long."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        before = machine_cpu()
        time.sleep(0.3)
        if machine_cpu() - before <= 0.06:
            return


def wait_for_rest(pids, limit_s):
    """Until these processes have nothing left to do, or that long."""
    deadline, calm = time.monotonic() + limit_s, 0
    before = sum(map(cpu_of, pids))
    while calm < 2 and time.monotonic() < deadline:
        time.sleep(0.25)
        after = sum(map(cpu_of, pids))
        calm = calm + 1 if after - before <= 0.02 else 0
        before = after
