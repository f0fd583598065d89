"""One question per file: a frozen dataclass that measures a subject and returns a result."""
