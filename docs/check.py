"""The built site: every picture has a text, and no page loads anything from a network.

python docs/check.py docs/build
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """What is wrong with one page."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img" and not given.get("alt"):
            self.faults.append(f"the picture {given.get('src')} has no text")
        loaded = given.get("src") or (given.get("href") if tag == "link" else None) or ""
        if loaded.startswith(("http:", "https:", "//")):
            self.faults.append(f"{tag} loads {loaded}")


def faults(folder: Path) -> list[str]:
    """Of all pages, each with its page."""
    found = []
    for path in sorted(folder.rglob("*.html")):
        page = Page()
        page.feed(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(folder)}: {fault}" for fault in page.faults]
    return found


if __name__ == "__main__":
    sys.exit("\n".join(faults(Path(sys.argv[1]))) or 0)
