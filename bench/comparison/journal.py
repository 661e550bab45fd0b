"""The raw results: a file of JSON lines, to which runs are added and nothing is ever changed."""

import json
from pathlib import Path


class Journal:
    def __init__(self, path, tag):
        self.path, self.tag = Path(path), tag
        self.runs, self.machines = [], []
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                self.take(json.loads(line))

    def take(self, entry):
        if entry["tag"] == self.tag:
            (self.machines if "machine" in entry else self.runs).append(entry)

    def add(self, entry):
        entry = {"tag": self.tag, **entry}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\n")
        self.take(entry)

    def has(self, run):
        """Whether this run was made, with whatever result."""
        return any(run.items() <= made.items() for made in self.runs)
