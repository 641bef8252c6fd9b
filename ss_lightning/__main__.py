"""``python -m ss_lightning``."""

import codecs
import locale
import os
import sys

from ss_lightning.cli.commands import main


def use_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale is another: names and texts of files are UTF-8 everywhere.

    Files are opened by other libraries too, and those take the encoding of the locale.
    """
    encoding = codecs.lookup(locale.getpreferredencoding(False)).name
    if encoding != "utf-8" and os.name == "posix" and sys.executable and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"  # of the processes that are started from here, too
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    use_utf8()
    sys.exit(main())
