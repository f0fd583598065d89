"""Every relative link and picture of the documentation leads somewhere, to the heading that it names."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from stabilitykit.cli import _COMMANDS
from stabilitykit.settings import OPTIONS

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
READ = MarkdownIt("commonmark").enable("table")


def targets(page):
    """Return what the page links to and shows."""
    found = []
    for token in READ.parse(page.read_text(encoding="utf-8")):
        for inner in token.children or ():
            found += [inner.attrs[name] for name in ("href", "src") if name in inner.attrs]
    return found


def anchors(page):
    """Return the anchors of the page's headings, as GitHub and MyST make them."""
    tokens = READ.parse(page.read_text(encoding="utf-8"))
    headings = [after for token, after in pairwise(tokens) if token.type == "heading_open"]
    texts = ["".join(child.content for child in heading.children) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in targets(page):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target}: there is no such file"
        assert not anchor or anchor in anchors(there), f"{target}: there is no such heading"


def test_pages_are_linked_at_all():
    assert sum(len(targets(page)) for page in PAGES) > 100


def test_every_picture_is_shown_somewhere():
    shown = {Path(target).name for page in PAGES for target in targets(page)}
    assert {path.name for path in ROOT.glob("docs/images/*")} <= shown


def test_the_readme_begins_with_the_two_commands_and_has_two_pictures():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.index("    make report ") < text.index("    make test ") < 400
    assert len(re.findall(r"^!\[[^\]]{20,}\]\(docs/images/", text, flags=re.MULTILINE)) == 2


def test_every_command_is_listed_with_its_page():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z]+)` \| .+ \| \[.+\]\(.+\.md\) \|$", text, flags=re.MULTILINE)
    assert sorted(listed) == sorted([*_COMMANDS, "run"])


def test_every_option_is_on_a_page():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "CHANGELOG.md")
    missing = [option.name for option in OPTIONS if not re.search(rf"--(stability-)?{option.name}(?![\w-])", text)]
    assert not missing
