"""--stability-suite collects the installed suite exactly once, wherever it is asked for and whatever lies around."""

import re
import shutil

import pytest

from stabilitykit.plugin.suite import MISSING, SUITE

# Read off the files, not asked of pytest.
TESTS = {
    f"{path.name}::{name}"
    for path in SUITE.glob("test_*.py")
    for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
}


@pytest.fixture
def collected(pytester):
    def collect(*options):
        result = pytester.runpytest_subprocess("--collect-only", "-q", "-p", "no:cacheprovider", *options)
        return sorted(line.split("[")[0] for line in result.outlines if "::" in line)

    return collect


def of_suite(nodeids):
    return sorted("::".join([nodeid.split("::")[0].split("/")[-1], nodeid.split("::")[1]]) for nodeid in nodeids)


def test_it_replaces_what_would_be_collected(pytester, collected):
    pytester.makeini("[pytest]\ntestpaths = .\n")
    pytester.makepyfile("def test_mine():\n    pass\n")
    assert of_suite(collected("--stability-suite")) == sorted(TESTS)


def test_it_joins_what_the_command_line_names(pytester, collected):
    pytester.makepyfile(test_mine="def test_mine():\n    pass\n")
    assert of_suite(collected("--stability-suite", "test_mine.py")) == sorted([*TESTS, "test_mine.py::test_mine"])


def test_other_patterns_and_strict_settings_of_the_user_do_not_hide_it(pytester, collected):
    pytester.makeini(
        "[pytest]\npython_files = check_*.py\npython_functions = check_*\naddopts = --strict-markers --strict-config\n"
        "collect_imported_tests = false\nfilterwarnings = error\n"
    )
    assert of_suite(collected("--stability-suite")) == sorted(TESTS)


@pytest.mark.parametrize("mode", ["prepend", pytest.param("importlib", marks=pytest.mark.long)])
def test_a_copy_in_the_root_is_passed_over(pytester, collected, mode):
    copy = pytester.path / "stability_tests"
    shutil.copytree(SUITE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "test_copy.py").write_text("def test_copy():\n    pass\n")
    assert of_suite(collected("--stability-suite", f"--import-mode={mode}")) == sorted(TESTS)
    assert of_suite(collected("--stability-suite", ".", f"--import-mode={mode}")) == sorted(TESTS)
    assert "test_copy.py::test_copy" in of_suite(collected(f"--import-mode={mode}"))


def test_a_run_without_one_suite_test_is_no_pass(pytester):
    pytester.makepyfile(test_mine="def test_mine():\n    pass\n")
    result = pytester.runpytest_inprocess("--stability-suite", "test_mine.py", "-k", "test_mine", "-p", "no:benchmark")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert MISSING in result.stdout.str()
    assert not (pytester.path / "reports").exists()


@pytest.mark.long
def test_the_suite_runs_on_two_workers_with_a_tiny_model(pytester):
    options = ("--stability-suite", "--stability-model=tiny", "-n", "2", "-p", "no:benchmark", "-k", "run_to_run")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["pass * run_to_run[[]tiny-float32[]] *", "stability report: *reports?index.html"])


def test_a_suite_failure_names_a_command_that_repeats_it(pytester):
    options = ("--stability-suite", "--stability-model=tiny", "-p", "no:benchmark", "-p", "no:cacheprovider")
    result = pytester.runpytest_inprocess(*options, "-k", "run_to_run", "--stability-limit=run_to_run.runs<=1")
    result.assert_outcomes(failed=1)
    # Under CI=true pytest prints the message again in its summary.
    (line,) = {line.removeprefix("E").strip() for line in result.outlines if "Rerun:" in line}
    assert line.endswith(
        '--pyargs "stability_tests.test_determinism::test_run_to_run[tiny-float32]" --stability-model=tiny'
    )
    again = pytester.runpytest_inprocess(
        "--pyargs", "stability_tests.test_determinism::test_run_to_run[tiny-float32]", "--stability-model=tiny"
    )
    again.assert_outcomes(passed=1)
