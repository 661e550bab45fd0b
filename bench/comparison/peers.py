"""The programs that are compared. bench/peers/README.md says what each does, and how to build it."""

import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Callable

from . import paths

OURS, LIBRARY, PROBE, LIMIT = "ours", "library", "probe", "limit"


@dataclass(frozen=True)
class Peer:
    name: str
    store: str
    kind: str
    command: list
    version: Callable[[], str]
    options: tuple = ()
    workloads: frozenset = frozenset(["w1", "w2", "w2x", "w3", "w4", "w5", "w6"])


CURATOR_JARS = (
    "curator-recipes curator-framework curator-client zookeeper zookeeper-jute guava failureaccess slf4j-api slf4j-nop "
    "netty-all netty-buffer netty-codec netty-common netty-handler netty-resolver netty-transport "
    "netty-transport-native-unix-common netty-transport-native-epoll metrics-core"
).split()

CONTENTION = frozenset(["w1", "w2", "w2x", "w3", "w4"])
KAZOO_PYTHON = str(paths.BUILT / "kazoo" / "bin" / "python")


def output_of(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        return done.stdout.strip()
    except OSError:
        return ""


def first_number(text):
    found = re.search(r"\d+(\.\d+)+\S*", text)
    return found[0] if found else "?"


def crate_version(name):
    lock = (paths.PEERS / "rust" / "Cargo.lock").read_text()
    return re.search(rf'name = "{name}"\nversion = "([^"]+)"', lock)[1]


def all_peers(lock_bench):
    def ours(store, scheme):
        version = lambda: output_of([lock_bench, "--version"]).split()[-1]
        one_thread = ("--backend", scheme, "--threads", "1", "--shared-runtime")
        return [
            Peer("lock-bench", store, OURS, [lock_bench], version, ("--backend", scheme)),
            Peer("lock-bench (one thread)", store, OURS, [lock_bench], version, one_thread),
        ]

    def rust(program):
        return [str(paths.BUILT / "rust" / "release" / program)]

    def crate(name):
        return lambda: crate_version(name)

    nothing = lambda: ""
    go = [str(paths.BUILT / "go-etcd")]
    go_version = lambda: first_number(output_of(go + ["version"]))
    java_path = f"{paths.BUILT / 'java-curator'}:{paths.jars(CURATOR_JARS)}"
    java = [paths.JAVA, "-Xmx2g", "-cp", java_path, "Bench"]
    kazoo = [KAZOO_PYTHON, str(paths.PEERS / "py-kazoo" / "bench.py")]
    kazoo_version = lambda: output_of([KAZOO_PYTHON, "-c", "import kazoo.version; print(kazoo.version.__version__)"])
    etcdctl = [sys.executable, str(paths.PEERS / "etcdctl" / "bench.py")]
    etcdctl_version = lambda: first_number(output_of([paths.ETCDCTL, "version"]))
    batch, fenced, recursive = ("--recipe", "batch"), ("--recipe", "fenced"), ("--recipe", "recursive")
    return [
        *ours("etcd", "etcd://"),
        Peer("go-etcd", "etcd", LIBRARY, go, go_version),
        Peer("etcd-client", "etcd", LIBRARY, rust("etcd-client"), crate("etcd-client")),
        Peer("etcdctl", "etcd", LIBRARY, etcdctl, etcdctl_version, workloads=frozenset(["w1", "w5"])),
        Peer("reach-etcd-count", "etcd", PROBE, rust("reach-etcd"), nothing, workloads=CONTENTION),
        Peer("raw-etcd", "etcd", LIMIT, rust("raw-etcd"), nothing, workloads=CONTENTION),
        Peer("raw-etcd fenced", "etcd", PROBE, rust("raw-etcd"), nothing, fenced, frozenset(["w1"])),
        Peer("raw-etcd batch", "etcd", PROBE, rust("raw-etcd"), nothing, batch, frozenset(["w3"])),
        *ours("zk", "zk://"),
        Peer("curator", "zk", LIBRARY, java, lambda: paths.jar_version("curator-recipes")),
        Peer("kazoo", "zk", LIBRARY, kazoo, kazoo_version),
        Peer("zookeeper-client", "zk", LIBRARY, rust("zookeeper-client"), crate("zookeeper-client")),
        Peer("reach-zk", "zk", PROBE, rust("reach-zk"), nothing, workloads=CONTENTION),
        Peer("reach-zk-rec", "zk", PROBE, rust("reach-zk"), nothing, recursive, CONTENTION),
        Peer("raw-zk", "zk", LIMIT, rust("raw-zk"), nothing, workloads=CONTENTION),
        Peer("raw-zk fenced", "zk", PROBE, rust("raw-zk"), nothing, fenced, frozenset(["w1"])),
        Peer("raw-zk batch", "zk", PROBE, rust("raw-zk"), nothing, batch, frozenset(["w3"])),
    ]
