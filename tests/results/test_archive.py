"""Arrays from files: what numpy writes comes back, what is damaged or hostile is refused before memory is taken."""

import io
import struct
import zipfile

import numpy as np
import pytest

from stabilitykit.errors import UnreadableError
from stabilitykit.report.csv import archive
from stabilitykit.results.archive import read_array, read_arrays

ARRAYS = {
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "none": np.zeros((0, 4), dtype=np.float32),
    "one": np.array(7),
    "text": np.array(["a", "bc"]),
    "long name ü" * 20: np.array([np.nan, -0.0]),
}


def test_what_was_written_comes_back_bit_for_bit(tmp_path):
    (tmp_path / "a.npz").write_bytes(archive(ARRAYS))
    np.savez(tmp_path / "b.npz", **ARRAYS)
    for name in ("a", "b"):
        found = read_arrays(tmp_path / f"{name}.npz")
        assert list(found) == list(ARRAYS)
        for key, array in ARRAYS.items():
            assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape)
            assert found[key].tobytes() == array.tobytes()
            assert found[key].flags.writeable
    np.save(tmp_path / "a.npy", ARRAYS["fortran"])
    assert np.array_equal(read_array(tmp_path / "a.npy"), ARRAYS["fortran"])


def member(shape="(2,)", descr="'<f8'", data=bytes(16), rest=""):
    """Return an .npy file with a header of its own."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}{rest}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


MEMBERS = {
    "more than there is": (
        member(f"({10**12},)"),
        "announces 8000000000000 bytes and 16",
    ),
    "less than there is": (member("(1,)"), "announces 8 bytes and 16 follow"),
    "objects": (member(descr="'|O'"), "objects"),
    "elements of no size": (member(descr="'|V0'", data=b""), "objects, or nothing"),
    "a negative shape": (member("(-1, -2)"), "no shape"),
    "a shape of truths": (member("(True, 2)"), "no shape"),
    "code for a shape": (member("__import__('os').getpid()"), "malformed node"),
    "another field": (member(rest=", 'more': 1"), "no header"),
    "no dtype": (member(descr="'nope'"), "nope"),
    "an open bracket": (member("("), "cannot be read: "),
    "another format": (b"\x93NUMPY\x07\x00" + bytes(40), "format 7.0"),
    "a long header": (b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + bytes(40), "a header of 1073741824 bytes"),
    "a pickle": (b"\x80\x04\x95\x00\x00\x00\x00", "magic string"),
    "nothing": (b"", "magic string"),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_a_file_of_one_array_is_refused_by_name_and_reason(tmp_path, case):
    content, reason = MEMBERS[case]
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", content)
    for read, name in ((read_array, "a.npy"), (read_arrays, "a.npz")):
        with pytest.raises(UnreadableError, match=f"{name} cannot be read: ") as caught:
            read(tmp_path / name)
        assert reason in str(caught.value)
        assert str(caught.value).isprintable()


def zipped(*members, **options):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", **options) as file:
        for name, content in members:
            file.writestr(name, content)
    return data.getvalue()


def announcing(size):
    """Return an archive whose directory promises so many bytes of its member."""
    content = bytearray(zipped(("x.npy", member())))
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", size)
    return bytes(content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: zipped(("x.npy", member()), ("x.npy", member())), "a name stands twice"),
        (lambda: zipped(("../x\x1b", member())), r"'../x\x1b' is no array"),
        (lambda: zipped(("x.npy", member()), compression=zipfile.ZIP_LZMA), "in a way that is not ours"),
        (lambda: zipped(*((f"{n}.npy", member()) for n in range(2)))[:-30], "not a zip file"),
        (lambda: announcing(0xFFFFFFFE), "announces 16 bytes and 4294967228 follow"),
        (lambda: zipped(("x.npy", member())).replace(bytes(16), b"\x01" + bytes(15)), "Bad CRC-32"),
    ],
    ids=["twice", "no array", "lzma", "cut", "announced", "crc"],
)  # fmt: skip
def test_an_archive_is_refused_by_name_and_reason(tmp_path, content, reason):
    (tmp_path / "a.npz").write_bytes(content())
    with pytest.raises(UnreadableError) as caught:
        read_arrays(tmp_path / "a.npz")
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_all_members_announce_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("stabilitykit.results.archive.LARGEST", 100)
    (tmp_path / "a.npz").write_bytes(archive({"x": np.zeros(2)}))
    with pytest.raises(UnreadableError, match="it announces 144 bytes; more than 100 are not read"):
        read_arrays(tmp_path / "a.npz")


def test_a_missing_file_is_said_to_be(tmp_path):
    with pytest.raises(UnreadableError, match=r"a\.npz cannot be read: No such file or directory"):
        read_arrays(tmp_path / "a.npz")
