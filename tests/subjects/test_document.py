"""Documents: what each kind of file says, and one sentence for each that cannot be read."""

import io
import logging
import sys

import pytest
from pypdf import PdfReader, PdfWriter
from reportlab.pdfgen.canvas import Canvas

import stabilitykit as sk
from stabilitykit.subjects.document import INSTALL, Document, read_document


def pdf(path, pages, **encryption):
    """Write a PDF, a list of lines a page, by a library that is not the one under test."""
    canvas = Canvas(str(path))
    for lines in pages:
        for number, line in enumerate(lines):
            canvas.drawString(72, 760 - 14 * number, line)
        canvas.showPage()
    canvas.save()
    if encryption:
        writer = PdfWriter(PdfReader(io.BytesIO(path.read_bytes())))
        writer.encrypt(algorithm="RC4-128", **encryption)
        writer.write(path)
    return path


def test_a_text_is_itself():
    text = " two\twords \n<b>&amp; \x1b[31m\u202e 3 "
    assert read_document(text) == Document(text, "text")
    assert read_document(Document(text, "x")) == Document(text, "x")


@pytest.mark.parametrize("name", ["a.md", "a.txt", "a"])
def test_a_file_keeps_every_character(tmp_path, name):
    text = "# Title\n\n*Marks*  and `code`: 12 \U0001f600 naïve\t日本語\r\n"
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_document(tmp_path / name) == Document(text, name)


def test_a_pdf_is_its_pages_in_order(tmp_path):
    found = read_document(pdf(tmp_path / "a.pdf", [["one two", "three"], [], ["four", "five  six"]]))
    assert found == Document("one two three four five six", "a.pdf", 3)


def test_a_pdf_is_known_by_its_content_too(tmp_path):
    pdf(tmp_path / "a.pdf", [["one two"]]).rename(tmp_path / "a.txt")
    assert read_document(tmp_path / "a.txt").text == "one two"


def test_what_only_restricts_printing_is_read(tmp_path):
    locked = pdf(tmp_path / "a.pdf", [["one two"]], user_password="", owner_password="owner")
    assert read_document(locked).text == "one two"


def write_encrypted(path):
    pdf(path / "a.pdf", [["one two"]], user_password="secret")


def write_cut(path):
    whole = pdf(path / "a.pdf", [["one two"]] * 3)
    whole.write_bytes(whole.read_bytes()[:400])


WRITERS = {
    "encrypted": (write_encrypted, sk.UnreadableError, "is encrypted; save a copy without its password"),
    "cut off": (write_cut, sk.UnreadableError, "is no PDF that can be read"),
    "no PDF": (lambda path: (path / "a.pdf").write_text("hello there"), sk.UnreadableError, "is no PDF"),
    "no bytes": (lambda path: (path / "a.pdf").write_bytes(b""), sk.UnreadableError, "is no PDF"),
    "scanned": (lambda path: pdf(path / "a.pdf", [[], []]), sk.UnreadableError, "has 2 pages and no text"),
    "missing": (lambda path: None, sk.UnreadableError, "cannot be read: No such file"),
    "folder": (lambda path: (path / "a.pdf").mkdir(), sk.UsageError, "is a folder; name one document"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_cannot_be_read_is_one_sentence(tmp_path, kind, caplog):
    write, error, sentence = WRITERS[kind]
    write(tmp_path)
    with pytest.raises(error) as raised:
        read_document(tmp_path / "a.pdf")
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        (b"", sk.UsageError, "a.txt is empty"),
        (b" \n\t", sk.UsageError, "a.txt is empty"),
        (b"caf\xe9 au lait", sk.UnreadableError, "is not UTF-8 (byte 3)"),
        ("hello".encode("utf-16"), sk.UnreadableError, "is not UTF-8 (byte 0)"),
    ],
)
def test_text_that_cannot_be_read_is_one_sentence(tmp_path, content, error, sentence):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(error) as raised:
        read_document(tmp_path / "a.txt")
    assert sentence in str(raised.value)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    file = pdf(tmp_path / "a.pdf", [["one two"]])
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(sk.UnreadableError, match="pypdf, which reads it, is not installed") as raised:
        read_document(file)
    assert INSTALL in str(raised.value)


def test_a_missing_part_of_the_library_is_named(tmp_path, monkeypatch):
    from pypdf.errors import DependencyError

    def lacks(_self):
        raise DependencyError("cryptography>=3.1 is required for AES algorithm")

    file = pdf(tmp_path / "a.pdf", [["one two"]])
    monkeypatch.setattr(PdfReader, "is_encrypted", property(lacks))
    with pytest.raises(sk.UnreadableError, match=r"needs more than pypdf to be read \(cryptography"):
        read_document(file)


def test_the_logger_is_as_it_was(tmp_path):
    logger = logging.getLogger("pypdf")
    before = logger.level
    try:
        logger.setLevel(17)
        read_document(pdf(tmp_path / "a.pdf", [["one two"]]))
        assert logger.level == 17
    finally:
        logger.setLevel(before)


def test_the_digest_is_of_the_text_and_the_name_stands_for_it():
    one, other = Document("one two", "a"), Document("one twO", "a")
    assert one.digest != other.digest
    assert one.digest == Document("one two", "b").digest
    assert repr(one) == f"Document('a', {one.digest[:12]})"
