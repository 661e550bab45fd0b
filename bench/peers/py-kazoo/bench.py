"""Peer: kazoo, with its Lock. One client, so one session; a thread for each worker."""

import itertools
import os
import random
import sys
import threading
import time

from kazoo.client import KazooClient

workload = sys.argv[1]
options = {name.lstrip("-"): value for name, value in zip(sys.argv[2::2], sys.argv[3::2])}
prefix = options["prefix"]
# Room for thousands of waiters.
threading.stack_size(256 * 1024)


def number(name, default):
    return int(options.get(name, default))


def say(line):
    print(line, flush=True)


def mark(name):
    say("MARK " + name)
    if "BENCH_MARKS" in os.environ:
        sys.stdin.readline()


def write(records):
    with open(options["raw"], "w") as file:
        file.writelines("%d,%d,%d,%d,%d,%d\n" % record for record in records)


def start_threads(count, work):
    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(count)]
    for thread in threads:
        thread.start()
    return threads


def once(lock, worker, ticket, start):
    """Takes and releases the lock once. Times are in nanoseconds since the start."""
    requested = time.monotonic_ns() - start
    lock.acquire()
    granted = time.monotonic_ns() - start
    lock.release()
    return worker, ticket, requested, granted, granted, time.monotonic_ns() - start


def lock_name(lock):
    return "%s/l%05d" % (prefix, lock)


def run_pass(client, workers, total, start):
    """All workers take and release locks, `total` times together."""
    locks, limit = number("locks", 1), number("max-s", 60) * 10**9
    tickets = itertools.count()
    records = []

    def work(worker):
        choose = random.Random(worker + 1)
        lock = client.Lock(prefix)
        own = []
        while True:
            ticket = next(tickets)
            if ticket >= total or time.monotonic_ns() - start > limit:
                break
            if locks > 1:
                lock = client.Lock(lock_name(choose.randrange(locks)))
            own.append(once(lock, worker, ticket, start))
        records.extend(own)

    for thread in start_threads(workers, work):
        thread.join()
    return records


def contend(client):
    workers = number("c", 1)
    run_pass(client, workers, max(workers, number("warm", 300)), time.monotonic_ns())
    mark("begin")
    began, start = time.time_ns(), time.monotonic_ns()
    records = run_pass(client, workers, number("n", 2000), start)
    wall = (time.monotonic_ns() - start) / 1e9
    mark("end")
    write(records)
    say('{"wall_s":%f,"done":%d,"t0_unix_ns":%d}' % (wall, len(records), began))


def drain(client):
    """Many queue up behind one holder, who then lets go."""
    n = number("n", 1000)
    holder = client.Lock(prefix)
    holder.acquire()
    records = []
    mark("enq")
    start = time.monotonic_ns()
    waiters = start_threads(n, lambda worker: records.append(once(client.Lock(prefix), worker, worker, start)))
    while client.exists(prefix).numChildren <= n:
        time.sleep(0.02)
    queued = (time.monotonic_ns() - start) / 1e9
    mark("begin")
    released = time.monotonic_ns() - start
    holder.release()
    for waiter in waiters:
        waiter.join()
    mark("end")
    write(records)
    last = max(granted for _, _, _, granted, _, _ in records)
    say('{"drain_s":%f,"queued_s":%f,"done":%d}' % ((last - released) / 1e9, queued, n))


def hold(client):
    client.Lock(prefix).acquire()
    say("HELD")
    sys.stdin.read()


def wait(client):
    say("WAITING")
    client.Lock(prefix).acquire()
    say("GRANTED")


def hold_many(client):
    locks = [client.Lock(lock_name(lock)) for lock in range(number("n", 1000))]
    for lock in locks:
        lock.acquire()
    say("HELD")
    sys.stdin.read()


client = KazooClient(hosts=options["endpoint"], timeout=float(number("ttl", 30)))
client.start()
contenders = dict.fromkeys(["w1", "w2", "w3"], contend)
workloads = {**contenders, "w4": drain, "hold": hold, "wait": wait, "holdmany": hold_many}
workloads[workload](client)
# Without waiting for the threads of the client.
os._exit(0)
