"""Many processes that update one baseline at once, round after round: who won, and what the file then holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from oracles.forge import environment

from stabilitykit.baselines.store import read

UPDATER = Path(__file__).with_name("updater.py")


class Updaters:
    """The processes; each reads, then writes, when it is told."""

    def __init__(self, path: Path, count: int, *words: str) -> None:
        self.path = path
        self.wins: dict[int, float] = {}
        self._rounds = 0
        self._processes = [
            subprocess.Popen(
                [sys.executable, str(UPDATER), str(path), str(number), *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
            )
            for number in range(count)
        ]  # fmt: skip

    def round(self) -> str | None:
        """Let all update at once; return what is wrong with the outcome."""
        if set(self._all("read")) != {"read"}:
            return "one could not read"
        told = self._all("write")
        lost = sum(one.startswith("lost: ") and "has changed since" in one for one in told)
        if (told.count("won"), lost) != (1, len(told) - 1):
            return f"{told.count('won')} won, {lost} were told that it has changed, of {len(told)}"
        self.wins[told.index("won")] = float(2 * self._rounds + 1)
        self._rounds += 1
        held = {entry.check: entry.readings["round"].value for entry in read(self.path).entries.values()}
        expected = {f"by[{winner}]": last for winner, last in self.wins.items()}
        return None if held == expected else f"the file holds {held}, the winners wrote {expected}"

    def end(self) -> list[str]:
        """Close all; return what each said at last."""
        for one in self._processes:
            one.stdin.close()
        return [one.stdout.read().strip() for one in self._processes]

    def kill(self) -> None:
        """End what is left."""
        for one in self._processes:
            one.kill()
            one.wait()
            one.stdout.close()

    def _all(self, what: str) -> list[str]:
        for one in self._processes:
            one.stdin.write(f"{what}\n")
            one.stdin.flush()
        return [one.stdout.readline().strip() for one in self._processes]
