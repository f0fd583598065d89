"""Starting pytest with the plugin imports nothing heavy: sessions that never measure do not pay for it."""

import subprocess
import sys

import pytest

HEAVY = ["torch", "transformers", "pandas", "numpy", "scipy", "hypothesis", "plotly", "jinja2", "tqdm"]
PROGRAM = f"""
import sys, pytest
status = pytest.main(sys.argv[1:])
found = [name for name in {HEAVY} if name in sys.modules]
print("HEAVY", status, found)
"""


@pytest.mark.parametrize("arguments", [["--version"], ["--collect-only", "test_light.py"], ["test_light.py"]])
def test_nothing_heavy_is_imported(tmp_path, arguments):
    (tmp_path / "test_light.py").write_text("def test_light():\n    pass\n")
    others = ["-p", "no:benchmark", "-p", "no:hypothesispytest", "-p", "no:cacheprovider", "-p", "no:anyio"]
    command = [sys.executable, "-c", PROGRAM, *others, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "HEAVY ExitCode.OK []" in done.stdout.replace("HEAVY 0", "HEAVY ExitCode.OK"), done.stdout + done.stderr


def test_the_plugin_may_be_named_as_well_as_installed(pytester):
    pytester.makeconftest('pytest_plugins = ["stabilitykit.plugin"]\n')
    pytester.makepyfile("def test_light():\n    pass\n")
    pytester.runpytest_inprocess("-p", "stabilitykit.plugin").assert_outcomes(passed=1)


def test_the_package_imports_nothing_heavy():
    program = f"import sys, stabilitykit; dir(stabilitykit); print([n for n in {HEAVY} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_processes_stand_from_one_check_of_a_session_to_the_next(inner):
    """What a check asks of another device is asked of the process that the check before it had started."""
    run = inner("""
from stabilitykit.subjects.standing import those_standing

SEEN = []

class Asks(ToyDrift):
    def find(self, subject):
        SEEN.append(those_standing())
        return super().find(subject)

def test_one(stability):
    stability.measure(Asks(0.0), TOY)

def test_another(stability):
    stability.measure(Asks(0.0), TOY, name="another")
    assert SEEN[0] is SEEN[1] is not None
    assert those_standing() is None
""")
    assert [record["verdict"] for record in run.run["records"]] == ["measured", "measured"]
