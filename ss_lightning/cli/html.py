"""Parts of an HTML page that needs nothing else, not even a network, and that reads well on a phone."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

# In pixels. Wider pictures get a row of their own.
_WIDE = 900


def page(title: str, body: Sequence[str]) -> str:
    """A whole page.

    Args:
        title: its title, as text.
        body: what follows, as HTML.
    """
    return _PAGE.format(title=escape(title), body="\n".join(body))


def figure(png: bytes, caption: str) -> str:
    """A picture; a wide one gets a whole row, and on a narrow screen is moved sideways instead of shrunk."""
    wide = int.from_bytes(png[16:20], "big") > _WIDE
    data = base64.b64encode(png).decode()
    text = escape(caption)
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    return f"<figure{' class=wide' * wide}>{image}<figcaption>{text}</figcaption></figure>"


def details(title: str, content: str) -> str:
    """A part that is shown once its title is clicked; ``content`` is HTML."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table whose rows become cards on a narrow screen: every cell knows the name of its column."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td data-label="{escape(name)}">{escape(str(cell))}</td>' for name, cell in zip(header, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.45 system-ui, sans-serif; color: #111; background: #fff; max-width: 75rem;
       margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }}
h1 {{ font-size: 1.5rem; }}
h3 {{ font-size: 1.05rem; margin-top: 1.5rem; }}
pre {{ white-space: pre-wrap; background: #f4f4f4; padding: .5rem; font-size: .85rem; }}
h2 {{ font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid #999; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid #ddd; }}
th {{ font-weight: 600; }}
td:first-child {{ white-space: nowrap; }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem; }}
figure {{ margin: 0; break-inside: avoid; }}
img {{ max-width: 100%; height: auto; }}
.wide {{ grid-column: 1 / -1; overflow-x: auto; }}
.wide img {{ min-width: 44rem; }}
figcaption {{ position: sticky; left: 0; color: #444; font-size: .9rem; }}
details {{ margin-top: .6rem; }}
summary {{ cursor: pointer; padding: .3rem 0; }}
@media (max-width: 44rem) {{
  thead {{ display: none; }}
  tr {{ display: block; border-bottom: 2px solid #999; padding: .4rem 0; }}
  td {{ display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .15rem 0;
        overflow-wrap: anywhere; }}
  td:first-child {{ white-space: normal; font-weight: 600; }}
  td:empty {{ display: none; }}
  td::before {{ content: attr(data-label); color: #444; flex: 0 0 45%; }}
}}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
