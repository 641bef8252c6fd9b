"""After a build: every link of the site to itself leads somewhere, its anchor included; otherwise a warning."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


class Page(HTMLParser):
    """The links of a page and the anchors that it offers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag links to and what it is called."""
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


def broken_links(site: Path) -> list[str]:
    """Links that lead nowhere, each with the page that it stands on."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            missing = not target.exists() or (target in pages and unquote(parts.fragment) not in pages[target].anchors)
            if missing:
                broken.append(f"{path.relative_to(site)}: {link}")
    return broken


def check(app: Sphinx, error: Exception | None) -> None:
    """Warn about every broken link, which ends a build with ``-W``."""
    if error is None and app.builder.format == "html":
        for link in broken_links(Path(app.outdir).resolve()):
            logger.warning("broken link on %s", link)


def setup(app: Sphinx) -> dict[str, bool]:
    """Look when the build is done."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
