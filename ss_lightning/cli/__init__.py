"""The command line: ``python -m ss_lightning``, one file for each command."""
