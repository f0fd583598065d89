"""What the plugin costs who does not use it: pytest with it and without it, each in fresh processes, in turns."""

import os
import resource
import statistics
import subprocess
import sys

import pytest

ROUNDS = 7
WITHOUT = ("-p", "no:stabilitykit.plugin")


def seconds(folder, *arguments):
    """Return processor seconds of one fresh pytest process, those of its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("asked", [("--version",), ("--collect-only",), ()], ids=["version", "collection", "run"])
def test_an_unrelated_file_pays_little(benchmark, tmp_path, asked, capsys):
    """A folder with one file of 20 tests that know nothing of the plugin."""
    (tmp_path / "test_unrelated.py").write_text(
        "import pytest\n\n@pytest.mark.parametrize('n', range(20))\ndef test_it(n):\n    assert n >= 0\n"
    )
    times = [(seconds(tmp_path, *asked), seconds(tmp_path, *WITHOUT, *asked)) for _ in range(ROUNDS)]
    mine, plain = (statistics.median(side) for side in zip(*times, strict=True))
    with capsys.disabled():
        print(
            f"\npytest {' '.join(asked) or '(20 tests)'}: {1e3 * mine:.0f} ms with the plugin, {1e3 * plain:.0f} ms "
            f"without; ratio {mine / plain:.2f}, {1e3 * (mine - plain):.0f} ms more"
        )
    benchmark.extra_info.update(ratio=mine / plain)
    benchmark.pedantic(seconds, args=(tmp_path, *asked), rounds=1)
