"""Text of others in a page of Markdown: it stays text, whatever it looks like."""

from __future__ import annotations

import re

_SPECIAL = re.compile(r"[\\`*\[\]|~]")


def as_text(text: str) -> str:
    """Text for a cell of a table: one line, without markup, links or HTML."""
    line = " ".join(text.split())
    escaped = _SPECIAL.sub(r"\\\g<0>", line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def as_code(text: str) -> str:
    """Code for a cell of a table."""
    line = " ".join(text.split())
    ticks = "`" * (_longest_run(line) + 1)
    space = " " if "`" in line else ""
    return f"{ticks}{space}{line}{space}{ticks}".replace("|", r"\|")


def as_block(text: str, language: str) -> str:
    """Code as a block of its own."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
