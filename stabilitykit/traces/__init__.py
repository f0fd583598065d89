"""One machine's bits, set against another's."""
