"""Where a server is and the key it wants: an address without secrets, and a key that nobody gets to read."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from stabilitykit.errors import UsageError

KEY_VARIABLE = "OPENAI_API_KEY"
HIDDEN = "[key]"
_SHORTEST = 8


def base_url(url: str) -> str:
    """Return the address that requests are sent below, `/v1` where no path is given.

    UsageError unless it is http or https with a host, and for a user name, a password or a query: they are where keys
    hide, and an address is printed.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or any(not c.isprintable() or c.isspace() for c in url):
        raise UsageError("the address of the server is not of the form http://HOST:PORT/v1; give one that is")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UsageError(
            "the address of the server holds a user, a password, a query or a fragment, which would be printed; "
            "put the key into an environment variable and name that"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def api_key(variable: str | None) -> str:
    """Return the key in an environment variable; "" if None is named and the usual one is not set.

    UsageError for a named one that is not set, without the name: it may be the key itself, put there by mistake.
    """
    if variable is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise UsageError("what is to name the variable of the key is no name of a variable; give its name, not the key")
    key = os.environ.get(variable or KEY_VARIABLE, "").strip()
    if variable is not None and not key:
        raise UsageError("the environment variable that is named for the key is not set; set it, or name another")
    if not (key.isascii() and key.isprintable()):
        raise UsageError("the key in the environment variable has characters that no header may have; set it again")
    return key


def without(key: str, text: str) -> str:
    """Return `text` with the key blotted out, since servers quote it; a shorter word than any key stays."""
    return text.replace(key, HIDDEN) if len(key) >= _SHORTEST else text
