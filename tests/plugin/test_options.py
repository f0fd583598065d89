"""Options: help, the ini file, precedence, and every bad value refused before a test is collected (exit 4)."""

import json

import pytest

from stabilitykit.settings import OPTIONS, Settings

SHOW = """
def test_show(stability):
    s = stability.settings
    print("SHOWN", s.models, s.dtypes, s.device, s.seed, s.profile.name, len(s.prompts), len(stability.prompts))
"""


def shown(run):
    return next(line[line.index("SHOWN") :] for line in run.text.splitlines() if "SHOWN" in line)


def test_help_lists_every_option_with_its_ini_twin(inner):
    text = inner("", "--help").text
    for name in ("model", "dtype", "device", "prompts", "profile", "report", "limit", "strict", "seed", "suite"):
        assert f"--stability-{name}" in text
        assert f"stability_{name}" in text


def test_defaults_and_header(inner):
    run = inner(SHOW, "-s")
    assert shown(run) == "SHOWN ('smollm2',) ('float32',) cpu 0 quick 5 1"
    run.result.stdout.fnmatch_lines(["stability: smollm2 in float32 on cpu, profile quick, seed 0"])


def test_command_line_over_ini_over_default(pytester, inner):
    pytester.makeini(
        """
[pytest]
stability_model = one
    two
stability_seed = 7
stability_dtype = bfloat16
"""
    )
    run = inner(SHOW, "-s", "--stability-dtype=float16,float32", "--stability-profile=standard")
    assert shown(run) == "SHOWN ('one', 'two') ('float16', 'float32') cpu 7 standard 5 3"


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest.toml came with pytest 9")
def test_native_toml_takes_native_types(pytester, inner):
    pytester.makefile(
        ".toml", pytest='[pytest]\nstability_model = ["one"]\nstability_seed = 7\nstability_strict = true\n'
    )
    assert shown(inner(SHOW, "-s")) == "SHOWN ('one',) ('float32',) cpu 7 quick 5 1"


def test_prompts_are_the_lines_of_a_file_beside_the_ini(pytester, inner):
    pytester.makeini("[pytest]\nstability_prompts = mine.txt\n")
    (pytester.path / "mine.txt").write_bytes("\ufeff# ours\r\n\r\nÄpfel und\r\n  Birnen\r\n".encode())
    run = inner("def test_show(stability):\n    print('SHOWN', stability.settings.prompts)\n", "-s")
    assert shown(run) == "SHOWN ('Äpfel und', 'Birnen')"


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("dtype=int8", "--stability-dtype 'int8' is none of float32, bfloat16, float16, float64"),
        ("dtype=", None),
        ("device=gpu", "--stability-device 'gpu' is none of cpu, cuda, cuda:N, mps, xpu, xpu:N"),
        ("profile=fast", "--stability-profile 'fast' is none of quick, standard, paper"),
        ("seed=-1", "--stability-seed '-1' is not a whole number from 0 up"),
        ("limit=max_ulp:4", "--stability-limit 'max_ulp:4' is not CHECK.METRIC<=NUMBER"),
        ("limit=a.max_ulp<=nan", "nan is not a limit"),
        ("load-arg=novalue", "--stability-load-arg 'novalue' is not KEY=VALUE"),
        ("model= ", "--stability-model is empty"),
        ("prompts=absent.txt", "absent.txt cannot be read: No such file or directory"),
        ("prompts=empty.txt", "empty.txt holds no prompt; write one a line"),
        ("prompts=latin.txt", "latin.txt is not UTF-8 (byte 0); save it as UTF-8"),
        ("report=empty.txt/below", "empty.txt: Not a directory"),
    ],
)
def test_a_bad_value_costs_no_collection(pytester, inner, option, sentence):
    (pytester.path / "empty.txt").write_text("# nothing\n\n")
    (pytester.path / "latin.txt").write_bytes(b"\xc4\xe4")
    run = inner("raise SystemExit('collected')", f"--stability-{option}")
    if sentence is None:
        assert "collected" in run.text
        return
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert sentence in run.text
    assert "collected" not in run.text


def test_an_abbreviation_is_not_taken_for_an_option(inner):
    assert inner("", "--stability-mod=x").result.ret == pytest.ExitCode.USAGE_ERROR


GIVEN = {
    "model": "tiny",
    "dtype": "float64",
    "device": "cpu",
    "prompts": "prompts.txt",
    "profile": "standard",
    "report": "out",
    "limit": "toy_drift.max_ulp<=3",
    "known": "known.txt",
    "budget": "600",
    "strict": None,
    "attention": "eager",
    "experts": "eager",
    "load-arg": "use_cache=false",
    "tokens": "7",
    "record": "kept",
    "record-level": "block",
    "record-states": "norm",
    "record-step": "2",
    "against": "recording",
    "seed": "5",
    "suite": None,
    "replay": "replayed",
    "save": "saved",
    "baseline": "held",
    "compare-fail": "toy*.*: 5%",
    "update": "new",
    "require-baseline": None,
    "resume": None,
    "dry-run": None,
    "plant": "split-k",
    "progress": None,
}
UNTOLD = {
    "suite": "names other tests",
    "replay": "needs a run",
    "resume": "needs a stopped run",
    "dry-run": "measures nothing",
    "plant": "excludes what keeps anything; test_option_plant.py has it",
}
TELLS = """
import json

def test_told(stability):
    with open("told.json", "w") as file:
        json.dump(stability.settings.to_dict(), file, sort_keys=True)
    stability.measure(ToyDrift(3.0), TOY)
"""


def test_every_option_is_here() -> None:
    assert list(GIVEN) == [option.name for option in OPTIONS]


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_every_option_reaches_the_test(inner, pytester, workers):
    """Each has another value than its default, and a worker has what one process has."""
    (pytester.path / "prompts.txt").write_text("one\ntwo\n")
    (pytester.path / "known.txt").write_text("other* for a reason\n")
    (pytester.path / "recording").mkdir()
    (pytester.path / "recording" / "manifest.json").write_text("{}")
    asked = {name: value for name, value in GIVEN.items() if name not in UNTOLD}
    words = [f"--stability-{name}" + ("" if value is None else f"={value}") for name, value in asked.items()]
    run = inner(TELLS, *words, *workers, apart=True)
    found, default = json.loads((pytester.path / "told.json").read_text()), Settings().to_dict()
    keys = {option.name: option.name.replace("-", "_") for option in OPTIONS}
    keys |= {"model": "models", "dtype": "dtypes", "limit": "limits", "load-arg": "load_args"}
    for name in asked:
        if name != "device":  # cpu is the one device that every machine has
            assert found[keys[name]] != default[keys[name]], name
    assert run.verdicts == {"toy_drift[test_told]": "new"}
