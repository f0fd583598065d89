"""The site is built without a warning, and its reference has every public name."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_a_measurement_says_what_it_gives_and_where_it_is_explained(site):
    text = site.get_doctree("api").astext()
    for metric in sk.FirstChange.metrics:
        assert metric.description in text
    assert "|x - median| / (1.4826 MAD)" in text, "a norm is no substitution"
    listed = site.get_doctree("measurements").astext()
    for name in sk.__all__:
        thing = getattr(sk, name)
        if isinstance(thing, type) and issubclass(thing, sk.Measurement) and thing is not sk.Measurement:
            assert name in listed, f"{name} is in no chapter of the report"


def test_every_page_is_in_the_contents(site):
    assert {path.stem for path in DOCS.glob("*.md")} == site.found_docs
    assert site.found_docs - {"index"} == {page for pages in site.toctree_includes.values() for page in pages}
