"""A real browser opens the page from disk: every figure is drawn, nothing is refused, nothing is fetched."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import html5lib
import pytest
from plotly.offline import get_plotlyjs

from stabilitykit.report import write
from stabilitykit.results.record import Record, Run

CHROMIUM = Path("/usr/bin/chromium")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-extensions --enable-logging=stderr --v=0 "
    "--host-resolver-rules=MAP\u00a0*\u00a0~NOTFOUND --proxy-server=127.0.0.1:9 --virtual-time-budget=20000"
)

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")


def browse(page: Path, profile: Path, *more: str) -> tuple[str, str]:
    """Return what the browser made of the page, and what it logged."""
    options = [option.replace("\u00a0", " ") for option in OPTIONS.split(" ")]
    command = [str(CHROMIUM), *options, f"--user-data-dir={profile}", *more, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return done.stdout.decode(), done.stderr.decode(errors="replace")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, run: Run, records: list[Record]) -> Path:
    return write(run, records, tmp_path_factory.mktemp("reports"))


@pytest.mark.parametrize("scheme", ["0", "1"], ids=["dark", "light"])
def test_every_figure_is_drawn_without_a_complaint(index: Path, tmp_path: Path, scheme: str) -> None:
    dom, log = browse(index, tmp_path, f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1280,900")
    assert "CONSOLE" not in log
    tree = html5lib.parse(dom.replace(get_plotlyjs(), ""), namespaceHTMLElements=False)
    plots = [element for element in tree.iter("div") if (element.get("class") or "").startswith("plot")]
    drawn = [plot for plot in plots if any("main-svg" in (e.get("class") or "") for e in plot.iter())]
    wanted = [script for script in tree.iter("script") if script.get("data-plot")]
    assert len([plot for plot in drawn if plot.get("id")]) == len(wanted) == 11
    ink = {"0": "232, 234, 238", "1": "29, 33, 41"}[scheme]
    assert f"rgb({ink})" in dom, "figures do not follow the colour scheme"


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("plots", [True, False], ids=["scripts", "no scripts"])
def test_nothing_is_wider_than_the_window(index: Path, tmp_path: Path, width: int, plots: bool) -> None:
    text = index.read_text(encoding="utf-8").replace("<details>", "<details open>")
    if not plots:
        text = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    # A frame has the width asked for, where a window has a least width of its own.
    measure = (
        "<script>setTimeout(() => parent.document.title = 'overflow ' + "
        "(document.documentElement.scrollWidth - document.documentElement.clientWidth), 8000)</script></body>"
    )
    (tmp_path / "inner.html").write_text(text.replace("</body>", measure), encoding="utf-8")
    outer = tmp_path / "outer.html"
    outer.write_text(f'<iframe src="inner.html" style="width:{width}px;height:900px;border:0"></iframe>')
    dom, _ = browse(outer, tmp_path / "profile", "--allow-file-access-from-files", "--window-size=1400,1000")
    assert "<title>overflow 0</title>" in dom
