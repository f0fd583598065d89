"""A document as one text: a string as it is, a text or Markdown file as its characters, a PDF as what its pages say."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stabilitykit.errors import UnreadableError, UsageError, first_line

if TYPE_CHECKING:
    from pypdf import PdfReader

INSTALL = "pip install 'stabilitykit[pdf]'"
_MAGIC = b"%PDF-"
_HEAD = 1024  # a reader looks for the magic bytes this far


@dataclass(frozen=True, repr=False)
class Document:
    """A text and where it is from; `pages` is 0 for what has none."""

    text: str
    name: str
    pages: int = 0

    def __repr__(self) -> str:
        """Return its name and the digest, which stands for the text."""
        return f"Document({self.name!r}, {self.digest[:12]})"

    @property
    def digest(self) -> str:
        """SHA-256 of the text in UTF-8."""
        return hashlib.sha256(self.text.encode(errors="surrogatepass")).hexdigest()


def read_document(source: str | Path | Document) -> Document:
    """Return the text of a string, or of the file at a Path, or what was read already.

    A file is a PDF if it says so in its first bytes or by its name, else UTF-8 text, Markdown too: the marks are part
    of the text, and nothing is left out. The line breaks of a PDF are the page's, not the author's, so there every run
    of white space is one space; pages follow each other as words do.

    UsageError for a folder and for what holds no word. UnreadableError for a file that is missing, damaged, encrypted,
    not UTF-8, without text (scanned pages), or a PDF where pypdf is not installed.
    """
    document = Document(source, "text") if isinstance(source, str) else source
    document = _read(document) if isinstance(document, Path) else document
    if not document.text.strip():
        raise UsageError(f"{document.name} is empty; give a document with words in it")
    return document


def _read(path: Path) -> Document:
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name one document")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"document {path} cannot be read: {error.strerror or error}") from None
    if _MAGIC in content[:_HEAD] or path.suffix.lower() == ".pdf":
        return _pdf(path, content)
    try:
        return Document(content.decode("utf-8-sig"), path.name)
    except UnicodeDecodeError as error:
        raise UnreadableError(f"document {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _pdf(path: Path, content: bytes) -> Document:
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError
    except ImportError:
        raise UnreadableError(f"{path} is a PDF, and pypdf, which reads it, is not installed: {INSTALL}") from None
    try:
        with _quiet():
            reader = PdfReader(io.BytesIO(content))
            _unlock(path, reader)
            pages = [page.extract_text() for page in reader.pages]
    except UnreadableError:
        raise
    except DependencyError as error:
        raise UnreadableError(f"{path} needs more than pypdf to be read ({first_line(error)})") from None
    except Exception as error:  # a damaged file makes pypdf raise whatever its parts happen to raise
        raise UnreadableError(
            f"{path} is no PDF that can be read ({first_line(error)}); repair it or save it anew"
        ) from None
    text = " ".join(" ".join(pages).split())
    if not text:
        raise UnreadableError(
            f"{path} has {len(pages)} pages and no text, as scanned pages do; run text recognition on it first"
        )
    return Document(text, path.name, len(pages))


def _unlock(path: Path, reader: PdfReader) -> None:
    """Open what only restricts printing, which has an empty password; refuse what has a real one."""
    if reader.is_encrypted and not reader.decrypt(""):
        raise UnreadableError(f"{path} is encrypted; save a copy without its password")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep pypdf from writing about each flaw that it can read past."""
    logger = logging.getLogger("pypdf")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
