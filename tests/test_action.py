"""The action and the recipe of two machines, run step by step in a shell, with what a runner would set."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / ".github/actions/stability/action.yml").read_text(encoding="utf-8"))
QUICK = "-- -q -k run_to_run"


def shell(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a step as a runner does; the commands of this interpreter come first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)


def step(name: str) -> dict[str, Any]:
    (found,) = [one for one in ACTION["runs"]["steps"] if one["name"] == name]
    return found


def filled(texts: dict[str, str], inputs: dict[str, str]) -> dict[str, str]:
    """Fill in `${{ inputs.NAME }}`, as a runner does."""
    return {
        name: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda match: inputs[match[1]], text) for name, text in texts.items()
    }


def measured(folder: Path, **given: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run the step that measures; return what it did and the status it hands on."""
    inputs = {name: spec["default"] for name, spec in ACTION["inputs"].items()} | given
    output = folder / "output"
    output.touch()
    done = shell(step("Measure")["run"], folder, GITHUB_OUTPUT=str(output), **filled(step("Measure")["env"], inputs))
    return done, output.read_text(encoding="utf-8")


def test_a_green_run_and_a_red_one(tmp_path: Path) -> None:
    done, output = measured(tmp_path, model="tiny", arguments=QUICK)
    assert (done.returncode, output) == (0, "status=0\n"), done.stdout + done.stderr
    assert (tmp_path / "stability-report" / "index.html").exists()
    done, output = measured(tmp_path, model="tiny", arguments=f"--limit run_to_run.runs<=0 {QUICK}")
    assert (done.returncode, output) == (0, "status=0\nstatus=1\n"), done.stdout + done.stderr
    result = step("Result")
    assert result["env"] == {"STATUS": "${{ steps.measure.outputs.status }}"}
    assert [shell(result["run"], tmp_path, STATUS=status).returncode for status in ("0", "1", "")] == [0, 1, 3]


def test_a_hostile_input_is_a_word_and_no_command(tmp_path: Path) -> None:
    done, output = measured(tmp_path, model='"; touch planted; echo $(touch planted) `touch planted`', arguments=QUICK)
    assert output == "status=3\n", done.stdout + done.stderr
    assert not (tmp_path / "planted").exists()
    for one in ACTION["runs"]["steps"]:
        assert "${{" not in one.get("run", "")


def test_every_input_is_used_and_every_use_is_an_input() -> None:
    used = set(re.findall(r"inputs\.(\w+)", str(ACTION["runs"])))
    assert used == set(ACTION["inputs"])
    assert all(spec["description"] for spec in ACTION["inputs"].values())


@pytest.mark.long
def test_the_recipe_of_two_machines(tmp_path: Path) -> None:
    """Two CPU settings stand for the GPUs: they really differ, so the last job must fail and say where."""
    (recipe,) = re.findall(r"```yaml\n(name: devices\n.*?)```", (ROOT / "docs/ci.md").read_text(encoding="utf-8"), re.S)
    jobs = yaml.safe_load(recipe)["jobs"]
    (record,) = [one["run"] for one in jobs["record"]["steps"] if "run" in one]
    (compare,) = [one["run"] for one in jobs["compare"]["steps"] if "run" in one]
    machines = dict(zip(jobs["record"]["strategy"]["matrix"]["gpu"], ("", "COMPATIBLE"), strict=True))
    for name, kernels in machines.items():
        chosen = {"MKL_CBWR": kernels, "ATEN_CPU_CAPABILITY": "default"} if kernels else {}
        done = shell(record, tmp_path, GPU=name, MODEL="tiny", DEVICE="cpu", TOKENS="3", **chosen)
        assert done.returncode == 0, done.stdout + done.stderr
    done = shell(compare, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "digests differ, the first at stage" in done.stdout
    assert (tmp_path / "compared" / "index.html").exists()
