"""The site is built without a warning, and its reference has every public name."""

import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from oracles.kinds import kinds, schema

import stabilitykit as sk

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build it, but for the HTML: that takes longer and checks nothing more."""
    doctrees = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "dummy", "-d", doctrees]
    done = subprocess.run([*map(str, command), str(DOCS), str(doctrees / "out")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return pickle.loads((doctrees / "environment.pickle").read_bytes())


def test_every_public_name_is_in_the_reference(site):
    described = set(site.domaindata["py"]["objects"])
    public = {f"stabilitykit.{name}" for name in sk.__all__ if name not in ("__version__", "strategies")}
    public |= {f"stabilitykit.strategies.{name}" for name in sk.strategies.__all__}
    assert public <= described


def test_every_reading_and_cause_of_every_measurement_is_explained(site):
    text = " ".join(site.get_doctree("api").astext().split())
    listed = site.get_doctree("measurements").astext()
    for kind in kinds():
        assert kind.__name__ in listed, f"{kind.__name__} is in no chapter of the report"
        for metric in schema(kind):
            assert f"{metric.name} (" in text, metric.name
            assert " ".join(metric.description.replace("`", "").split()) in text, metric.name
        assert all(" ".join(cause.replace("`", "").split()) in text for cause in kind.causes), kind.__name__


def test_docstrings_are_shown_to_the_letter(site):
    """No sign of a formula is taken for markup; backticks and marks of lists are gone, and blank space is equal."""
    text = " ".join(site.get_doctree("api").astext().replace("`", "").split())
    for name in sk.__all__:
        thing = getattr(sk, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            written = re.sub(r"^[*-] ", "", inspect.getdoc(thing), flags=re.MULTILINE).replace("`", "")
            paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", written)]
            assert all(part in text for part in paragraphs), name


def test_every_page_is_in_the_contents(site):
    assert {path.stem for path in DOCS.glob("*.md")} == site.found_docs
    assert site.found_docs - {"index"} == {page for pages in site.toctree_includes.values() for page in pages}
