"""Kernels that :mod:`ss_lightning.functional.backends` may choose; nothing outside ``functional`` enters."""
