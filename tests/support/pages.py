"""Pages in Markdown, and where they lead."""

from __future__ import annotations

import re
from pathlib import Path


def dead_links(folder: Path) -> list[str]:
    """Links of the pages in ``folder``, and of those in its ``docs``, to files that are not there."""
    pages = [*folder.glob("*.md"), *(folder / "docs").rglob("*.md")]
    assert len(pages) > 20, folder
    return [
        f"{page.relative_to(folder)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in link and not (page.parent / link).exists()
    ]
