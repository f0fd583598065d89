"""`python -m stabilitykit` is the command `stabilitykit`."""

import sys

from stabilitykit.cli import main

if __name__ == "__main__":
    sys.exit(main())
