"""Experiments of the paper on questions that a single training does not answer; each is run as a module."""
