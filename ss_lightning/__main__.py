"""``python -m ss_lightning``."""

import sys

from ss_lightning.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
