"""What the numbers depend on: the machine, and the versions."""

import os
import platform
import subprocess
import time

from . import paths


def describe(peers):
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "kernel": f"{platform.system()} {platform.release()}",
        "commit": commit(),
        "peers": {f"{peer.name} ({peer.store})": version for peer in peers if (version := peer.version())},
    }


def cpu_model():
    with open("/proc/cpuinfo") as lines:
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def commit():
    command = ["git", "-C", str(paths.ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
