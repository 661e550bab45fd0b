"""Servers of our own on free loopback ports, one or three nodes, with fresh data."""

import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from . import paths

STARTING_S = 60


def free_port():
    """Below the ports from which the kernel takes those of outgoing connections."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def disjoint_ports(count):
    ports = set()
    while len(ports) < count:
        ports.add(free_port())
    return sorted(ports)


class Cluster:
    """A running cluster. Leaving the `with` block ends it and deletes its data."""

    store: str

    def __init__(self, nodes, data):
        base = "/dev/shm" if data == "tmpfs" else paths.SCRATCH
        Path(base).mkdir(parents=True, exist_ok=True)
        self.dir = Path(tempfile.mkdtemp(prefix=f"lock-bench-{self.store}-", dir=base))
        ports = disjoint_ports(3 * nodes)
        self.ports, self.internal_ports = ports[:nodes], ports[nodes:]
        self.processes = []

    def __enter__(self):
        try:
            self.start()
            deadline = time.monotonic() + STARTING_S
            while not all(self.ready(port) for port in self.ports):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self.store} did not start; its log:\n{self.log()[-2000:]}")
                if any(process.poll() is not None for process in self.processes):
                    raise RuntimeError(f"{self.store} ended at once; its log:\n{self.log()[-2000:]}")
                time.sleep(0.1)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def spawn(self, command):
        with open(self.dir / f"log-{len(self.processes)}", "wb") as log:
            env = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True
            )
        self.processes.append(process)

    def log(self):
        return "".join(path.read_text(errors="replace") for path in sorted(self.dir.glob("log-*")))

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    @property
    def endpoints(self):
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    @property
    def pids(self):
        return [process.pid for process in self.processes]

    def counters(self):
        """The sums over all nodes: messages received from clients by kind, and fsyncs."""
        total = {}
        for port in self.ports:
            for name, value in self.counters_of(port).items():
                total[name] = total.get(name, 0) + value
        return total


class Etcd(Cluster):
    store = "etcd"

    def start(self):
        peers = self.internal_ports[: len(self.ports)]
        cluster = ",".join(f"n{i}=http://127.0.0.1:{port}" for i, port in enumerate(peers))
        for i, (port, peer_port) in enumerate(zip(self.ports, peers)):
            client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
            options = {
                "name": f"n{i}",
                "data-dir": self.dir / f"n{i}",
                "listen-client-urls": client,
                "advertise-client-urls": client,
                "listen-peer-urls": peer,
                "initial-advertise-peer-urls": peer,
                "initial-cluster": cluster,
                "logger": "zap",
                "log-level": "error",
            }
            self.spawn([paths.ETCD, *(text for name, value in options.items() for text in (f"--{name}", str(value)))])

    def ready(self, port):
        try:
            return '"true"' in self.read(port, "health")
        except OSError:
            return False

    @staticmethod
    def read(port, page):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=10) as answer:
            return answer.read().decode()

    def counters_of(self, port):
        counters = {}
        for line in self.read(port, "metrics").splitlines():
            if match := re.match(r'grpc_server_msg_received_total\{.*grpc_method="(\w+)".*\} (\S+)', line):
                name = "message:" + match[1]
            elif match := re.match(r"(etcd_disk_wal_fsync_duration_seconds_count) (\S+)", line):
                name = "fsync"
            else:
                continue
            counters[name] = counters.get(name, 0) + float(match[2])
        return counters

    def version(self):
        return re.search(r'"etcdserver":"([^"]+)"', self.read(self.ports[0], "version"))[1]


class ZooKeeper(Cluster):
    store = "zk"
    # The jute jar first: the manifest of the other one names the installed one.
    JARS = (
        "zookeeper-jute zookeeper slf4j-api slf4j-nop netty-all netty-buffer netty-codec netty-common netty-handler "
        "netty-resolver netty-transport netty-transport-native-unix-common netty-transport-native-epoll metrics-core "
        "snappy-java log4j-1.2 commons-io commons-cli jackson-databind jackson-core jackson-annotations"
    ).split()

    def start(self):
        for i, port in enumerate(self.ports):
            data = self.dir / f"n{i}"
            data.mkdir()
            (data / "myid").write_text(f"{i + 1}\n")
            settings = [
                *("tickTime=2000", "initLimit=10", "syncLimit=5", f"dataDir={data}", f"clientPort={port}"),
                *("clientPortAddress=127.0.0.1", "maxClientCnxns=0", "admin.enableServer=false"),
                "4lw.commands.whitelist=*",
            ]
            if len(self.ports) > 1:
                pairs = zip(self.internal_ports[::2], self.internal_ports[1::2])
                settings += [f"server.{j + 1}=127.0.0.1:{a}:{b}" for j, (a, b) in enumerate(pairs)]
            config = self.dir / f"n{i}.cfg"
            config.write_text("\n".join(settings) + "\n")
            main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
            self.spawn([paths.JAVA, "-Xms1g", "-Xmx1g", "-cp", paths.jars(self.JARS), main, str(config)])

    def ready(self, port):
        try:
            return "Mode:" in self.ask(port, b"srvr")
        except OSError:
            return False

    @staticmethod
    def ask(port, word):
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(word)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return answer.decode()

    def counters_of(self, port):
        names = {"zk_packets_received": "message:packet", "zk_cnt_fsynctime": "fsync"}
        fields = (line.split("\t") for line in self.ask(port, b"mntr").splitlines())
        return {names[field[0]]: float(field[1]) for field in fields if field[0] in names}

    def version(self):
        return re.search(r"version: ([\w.]+)", self.ask(self.ports[0], b"srvr"))[1]


STORES = {cluster.store: cluster for cluster in (Etcd, ZooKeeper)}
