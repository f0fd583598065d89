"""A process that updates one baseline: told on stdin when to read it and when to write it, says how that went."""

import sys
from pathlib import Path

from stabilitykit.baselines.entry import Entry, Kept, Setting
from stabilitykit.baselines.store import read, write
from stabilitykit.errors import IncomparableError


def main(path: Path, name: str, careless: str = "") -> None:
    former = read(path)
    for number, line in enumerate(sys.stdin):
        told = "read"
        if line == "read\n":
            former = read(path)
        else:
            readings = {"round": Kept(float(number), "", "neither")}
            entry = Entry(f"by[{name}]", {}, {}, "", Setting({}, {}), readings)
            told = ""
            while not told:
                try:
                    write(read(path) if careless else former, {**former.entries, entry.key: entry}.values())
                    told = "won"
                except IncomparableError as error:
                    told = "" if careless else f"lost: {error}"
        print(told, flush=True)
    print("torch" in sys.modules)


main(Path(sys.argv[1]), *sys.argv[2:])
