"""Mistakes a person can mend, told apart from bugs so that the command line shows no traceback for them."""


class UsageError(ValueError):
    """A wrong argument, configuration or checkpoint. The command line prints the message and exits with 2."""


class DivergedError(UsageError):
    """A training whose loss or weights are no finite numbers any more. The command line exits with 2."""


class DataError(ValueError):
    """A data file that is missing, cut short or not what it claims. The command line exits with 1."""
