"""The example on the page about weights runs as printed, on a small model, and its words are in the glossary."""

import re
from pathlib import Path

import stabilitykit as sk

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "weights.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names = {"__name__": __name__}
    exec(block.replace('"smollm2"', '"tiny"'), names)
    said = capsys.readouterr().out
    assert "Of 36 head matrices" in said
    assert "2 weights, " in said
    assert {path.suffix for path in (tmp_path / "weights").iterdir()} == {".safetensors", ".json"}


def test_every_column_is_on_the_page():
    rows = [
        row
        for asked in (sk.HeadSpectra(null_draws=1, shuffles=9), sk.WeightStatistics(shuffles=9))
        for row in sk.measure(asked, sk.Checkpoint.of(sk.load("tiny")), progress=False).rows
        if row["part"] in ("head", "weight")
    ]
    numbers = {name for row in rows for name, value in row.items() if isinstance(value, float)}
    patterns = [re.escape(word).replace(r"\*", ".*") for word in re.findall(r"`([\w*-]+)`", PAGE)]
    implied = {"n_negative", "n_zero", "pct_positive", "pct_negative", "pct_zero", "rounding_floor"}
    missing = {
        name
        for name in numbers - implied
        if not any(re.fullmatch(pattern, name) for pattern in patterns) and not re.match(r"abs_p\d|n_\d", name)
    }
    assert not missing


def test_every_reading_of_products_is_explained():
    assert all(f"`{metric.name}`" in PAGE for metric in sk.HeadProducts.metrics)


def test_words_are_in_the_glossary():
    glossary = (DOCS / "glossary.md").read_text(encoding="utf-8")
    for word in (
        "checkpoint",
        "head spectrum",
        "null of a head",
        "entropy rank",
        "deficient head",
        "head product",
        "census",
        "outlier",
    ):
        assert f"\n### {word}\n" in glossary
