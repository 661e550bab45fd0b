"""Where things are."""

import os
import re
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "bench" / "peers"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BUILT = TARGET / "peers"
SCRATCH = TARGET / "bench"

JAVA = os.environ.get("JAVA", "java")
ETCD = os.environ.get("ETCD", "etcd")
ETCDCTL = os.environ.get("ETCDCTL", "etcdctl")


def jars(names):
    """A class path of these jars, as far as they are there. The directories are those that the tests use, too."""
    found = []
    for name in names:
        for directory in os.environ.get("ZK_JARS", "/usr/share/java").split(":"):
            jar = Path(directory) / f"{name}.jar"
            if jar.exists():
                found.append(str(jar))
                break
    return ":".join(found)


def jar_version(name):
    """As the jar's own description tells it."""
    try:
        with zipfile.ZipFile(jars([name])) as jar:
            entries = [entry for entry in jar.namelist() if entry.endswith(("pom.properties", "MANIFEST.MF"))]
            texts = [jar.read(entry).decode() for entry in entries]
    except OSError:
        return "?"
    found = re.search(r"^(?:version=|Bundle-Version: |Implementation-Version: )(\S+)", "\n".join(texts), re.MULTILINE)
    return found[1] if found else "?"
