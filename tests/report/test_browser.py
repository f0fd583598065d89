"""A real browser opens the page from disk: every figure is drawn, nothing is refused, nothing is fetched."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import html5lib
import pytest
from plotly.offline import get_plotlyjs

from stabilitykit.baselines.runs import beside
from stabilitykit.report import write
from stabilitykit.report.beside import page
from stabilitykit.report.packed import script_source
from stabilitykit.report.read import Report
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


def scripted(page: str, code: str) -> str:
    """Return the page with a script of the test's at its end, which its policy allows as well."""
    allowed = page.replace("script-src ", f"script-src {script_source(code)} ", 1)
    assert allowed != page
    return allowed.replace("</body>", f"<script>{code}</script></body>")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, run: Run, records: list[Record]) -> Path:
    """The comparison of two runs, one of which had longer prompts and other verdicts."""
    some = [record for record in records if record.check_id.startswith(("stability_fan", "singular_spectrum"))]
    other = [replace(record, verdict="differs") for record in some]
    wordy = replace(run, settings={**run.settings, "prompts": ["a long prompt " * 20]})
    file = tmp_path_factory.mktemp("two") / "index.html"
    file.write_text(page(beside(Report(run, tuple(some)), Report(wordy, tuple(other)))), encoding="utf-8")
    return file


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize(("which", "plots"), [("index", True), ("index", False), ("two", True)])
def test_nothing_is_wider_than_the_window(
    request: pytest.FixtureRequest, tmp_path: Path, width: int, which: str, plots: bool
) -> None:
    text = request.getfixturevalue(which).read_text(encoding="utf-8").replace("<details>", "<details open>")
    if not plots:
        text = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    # A frame has the width asked for, where a window has a least width of its own.
    measure = (
        "setTimeout(() => parent.document.title = 'overflow ' + "
        "(document.documentElement.scrollWidth - document.documentElement.clientWidth), 8000)"
    )
    (tmp_path / "inner.html").write_text(scripted(text, measure), encoding="utf-8")
    outer = tmp_path / "outer.html"
    outer.write_text(f'<iframe src="inner.html" style="width:{width}px;height:900px;border:0"></iframe>')
    dom, _ = browse(outer, tmp_path / "profile", "--allow-file-access-from-files", "--window-size=1400,1000")
    assert "<title>overflow 0</title>" in dom


STORY = """
setTimeout(async () => {
  const said = [];
  const find = document.getElementById("find");
  const visible = () => [...document.querySelectorAll("article")].filter((article) => article.offsetParent).length;
  const listed = () => [...document.querySelectorAll("[data-of]")].filter((item) => item.offsetParent).length;
  const type = (text) => { find.value = text; find.dispatchEvent(new Event("input")); };
  const tell = (name, value) => said.push(`${name}=${value}`);
  tell("all", visible());
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "/", bubbles: true, cancelable: true }));
  tell("focus", document.activeElement.id);
  type("RUN_to  smollm2");
  tell("found", `${visible()}/${listed()}/${document.getElementById("found").textContent}`);
  type("no such words");
  const parts = [...document.querySelectorAll("main > section")].filter((part) => part.querySelector("article"));
  tell("none", `${visible()}/${parts.filter((part) => part.offsetParent).length}`);
  location.hash = document.querySelector("article").id;
  await new Promise((next) => setTimeout(next, 200));
  tell("linked", `${visible()}/${find.value}`);
  const chip = document.querySelector("[data-show=fail]");
  chip.click();
  tell("without", `${visible()}/${chip.getAttribute("aria-pressed")}`);
  find.value = "x";
  find.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
  tell("escaped", find.value === "" && visible());
  chip.click();
  document.querySelector("[data-fold=close]").click();
  tell("folded", document.querySelectorAll(".fold[open]").length);
  document.querySelector("[data-fold=open]").click();
  tell("unfolded", document.querySelectorAll(".fold[open]").length);
  const ink = () => getComputedStyle(document.body).color;
  const before = ink();
  document.querySelector("[data-theme-switch]").click();
  tell("turned", `${before}->${ink()}`);
  const code = document.querySelector(".again code");
  const button = code.nextElementSibling;
  const copied = new Promise((next) => new MutationObserver(next).observe(button, { childList: true }));
  button.click();
  await Promise.race([copied, new Promise((next) => setTimeout(next, 5000))]);
  tell("copied", button.textContent !== "Copy");
  document.title = said.join("; ");
}, 9000)
"""


def test_finding_filtering_folding_copying_and_turning_dark(index: Path, tmp_path: Path) -> None:
    page = tmp_path / "story.html"
    page.write_text(scripted(index.read_text(encoding="utf-8"), STORY), encoding="utf-8")
    dom, log = browse(page, tmp_path / "profile", "--blink-settings=preferredColorScheme=1", "--window-size=1280,900")
    assert "CONSOLE" not in log
    title = re.findall("<title>(.*?)</title>", dom)[0]
    said = dict(part.split("=", 1) for part in title.split("; "))
    assert said == {
        "all": "10",
        "focus": "find",
        "found": "1/1/1 of 10 checks",
        "none": "0/0",
        "linked": "10/",
        "without": "9/false",
        "escaped": "9",
        "folded": "0",
        "unfolded": "10",
        "turned": "rgb(29, 33, 41)-&gt;rgb(232, 234, 238)",
        "copied": "true",
    }


def test_without_scripts_no_tool_is_offered(index: Path, tmp_path: Path) -> None:
    page = tmp_path / "plain.html"
    page.write_text(
        re.sub(r"<script>.*?</script>", "", index.read_text(encoding="utf-8"), flags=re.S), encoding="utf-8"
    )
    tell = "document.title = getComputedStyle(document.querySelector('.tools')).display"
    page.write_text(scripted(page.read_text(encoding="utf-8"), tell), encoding="utf-8")
    dom, _ = browse(page, tmp_path / "profile")
    assert "<title>none</title>" in dom


def test_a_planted_script_does_not_run(index: Path, tmp_path: Path) -> None:
    page = tmp_path / "planted.html"
    planted = "<script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\"></body>"
    page.write_text(index.read_text(encoding="utf-8").replace("</body>", planted), encoding="utf-8")
    dom, log = browse(page, tmp_path / "profile")
    assert "<title>ran</title>" not in dom
    assert "Content Security Policy" in log


def test_two_runs_side_by_side_are_drawn_without_a_complaint(two: Path, tmp_path: Path) -> None:
    dom, log = browse(two, tmp_path / "profile", "--window-size=1280,900")
    assert "CONSOLE" not in log
    tree = html5lib.parse(dom.replace(get_plotlyjs(), ""), namespaceHTMLElements=False)
    plots = [element for element in tree.iter("div") if element.get("class", "").startswith("plot ")]
    drawn = [plot for plot in plots if any("main-svg" in (e.get("class") or "") for e in plot.iter())]
    assert len(drawn) == 4
