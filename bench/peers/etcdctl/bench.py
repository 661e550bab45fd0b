"""Peer: `etcdctl lock NAME COMMAND`, a process for each acquisition.

The command prints the time, which is when the lock was granted; release and end are seen when etcdctl ends.
"""

import itertools
import os
import subprocess
import sys
import threading
import time

workload = sys.argv[1]
options = {name.lstrip("-"): value for name, value in zip(sys.argv[2::2], sys.argv[3::2])}
environment = dict(os.environ, ETCDCTL_API="3")
command = [os.environ.get("ETCDCTL", "etcdctl"), "--endpoints", options["endpoint"], "lock"]
command += ["--ttl", options.get("ttl", "30"), options["prefix"]]


def number(name, default):
    return int(options.get(name, default))


def mark(name):
    print("MARK " + name, flush=True)
    if "BENCH_MARKS" in os.environ:
        sys.stdin.readline()


def run_pass(workers, total, max_s):
    tickets = itertools.count()
    records = []
    # What `date` tells is on this clock, too.
    start = time.time_ns()

    def work(worker):
        while True:
            ticket = next(tickets)
            requested = time.time_ns() - start
            if ticket >= total or requested > max_s * 10**9:
                return
            done = subprocess.run([*command, "date", "+%s%N"], env=environment, stdout=subprocess.PIPE, check=True)
            granted = int(done.stdout.split()[-1]) - start
            records.append((worker, ticket, requested, granted, granted, time.time_ns() - start))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return records, (time.time_ns() - start) / 1e9, start


def contend():
    workers, max_s = number("c", 1), number("max-s", 60)
    run_pass(workers, workers, max_s)
    mark("begin")
    records, wall, start = run_pass(workers, number("n", 100), max_s)
    mark("end")
    with open(options["raw"], "w") as file:
        file.writelines("%d,%d,%d,%d,%d,%d\n" % record for record in records)
    print('{"wall_s":%f,"done":%d,"t0_unix_ns":%d}' % (wall, len(records), start), flush=True)


def hold():
    # Without a command etcdctl holds the lock until it ends, and prints the key when it has it.
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as holder:
        if not holder.stdout.readline():
            sys.exit("etcdctl ended without the lock")
        print("HELD", flush=True)
        holder.wait()


def wait():
    print("WAITING", flush=True)
    subprocess.run([*command, "true"], env=environment, check=True)
    print("GRANTED", flush=True)


{"w1": contend, "w2": contend, "hold": hold, "wait": wait}[workload]()
