"""Files as an attacker or an accident would leave them: other content under checksums that hold."""

import hashlib
import json
import zlib

from stabilitykit.traces.manifest import NAME, sealed


def manifest(folder):
    return json.loads((folder / NAME).read_text())


def seal(folder, data):
    """Write a manifest as an attacker would: with a right digest over wrong content."""
    data.pop("seal", None)
    (folder / NAME).write_text(sealed(data))


def swap(folder, name, content):
    """Replace a file's content and make the manifest promise it."""
    (folder / name).write_bytes(content)
    data = manifest(folder)
    data["files"][name]["bytes"] = len(content)
    data["files"][name]["sha256"] = hashlib.sha256(content).hexdigest()
    seal(folder, data)


def summed(body):
    """Return a line of a baseline, given without its checksum and closing brace, with the checksum that it needs."""
    return f'{body}, "sum": "{zlib.crc32(body.encode(errors="surrogatepass")):08x}"}}'


def resummed(text, old, new):
    """Replace something in the lines of a baseline and put each checksum right."""
    bodies = (line.rsplit(', "sum": ', 1)[0].replace(old, new) for line in text.splitlines())
    return "".join(summed(body) + "\n" for body in bodies)
