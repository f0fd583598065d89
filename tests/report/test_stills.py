"""Figures as files: the theme's colours in place of names, hostile titles inert, one file a figure in each format."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from stabilitykit.cli import main
from stabilitykit.errors import UnsupportedError
from stabilitykit.report import write
from stabilitykit.report.stills import draw, light, resolved
from stabilitykit.results.record import Record, Run

CHROMIUM = Path("/usr/bin/chromium")
browser = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")


def of(records: list[Record], name: str) -> list[Record]:
    return [record for record in records if record.check_id.startswith(name)]


def test_names_of_colours_are_resolved_in_the_light_theme() -> None:
    figure = {"line": {"color": "var(--ink)"}, "list": ["var(--line)", 1, "var(x)"]}
    assert resolved(figure, light()) == {"line": {"color": "#1d2129"}, "list": ["#dfe1e6", 1, "var(x)"]}


@browser
@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize(("kind", "magic"), [("svg", b"<svg"), ("pdf", b"%PDF-"), ("png", b"\x89PNG")])
def test_each_figure_is_a_file(tmp_path: Path, records: list[Record], kind: str, magic: bytes) -> None:
    drawn = draw(of(records, "stability_fan"), tmp_path / "new", kind)
    assert [path.name for path in drawn] == [
        f"stability_fan-smollm2-float32-{n}.{kind}" for n in range(1, 1 + len(drawn))
    ]
    assert len(drawn) >= 2
    assert all(path.read_bytes().startswith(magic) for path in drawn)


@browser
@pytest.mark.filterwarnings("ignore")
def test_the_command_draws_and_nothing_in_a_figure_is_markup(
    tmp_path: Path, run: Run, records: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    write(run, of(records, "batch_invariance[smollm2-float32]"), tmp_path / "report")
    assert main(["report", str(tmp_path / "report"), "--figures", str(tmp_path / "figures")]) == 0
    files = sorted((tmp_path / "figures").iterdir())
    assert f"{len(files)} figures" in capsys.readouterr().out
    for file in files:
        tags = {element.tag.rsplit("}", 1)[-1] for element in ElementTree.parse(file).iter()}
        assert not tags & {"script", "foreignObject", "a"}
        assert "var(--" not in file.read_text(encoding="utf-8")


def test_without_the_exporter_the_sentence_says_what_to_install(
    tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'stabilitykit\[figures\]'"):
        draw(of(records, "stability_fan"), tmp_path, "svg")
    assert draw([record for record in records if record.result is None], tmp_path / "none", "svg") == []
    assert not (tmp_path / "none").exists()
