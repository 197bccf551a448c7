"""What `mkdocs build` needs besides docs/: pages that live elsewhere in the repository, because people look there too.

Links between these pages and those of docs/ are written so that they work on a repository's web page; here they are
turned into links of the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {
    "model_card.md": "mirage_env/weights/rooms/README.md",
    "benchmarks.md": "benchmarks/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Page of the site to the file it is."""
PICTURES = {"curves.png": "mirage_env/weights/rooms/curves.png"}
SITE = {path: name for name, path in (PAGES | PICTURES).items()} | {"README.md": "index.md", "LICENSE": "index.md"}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from elsewhere."""
    for name, path in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text()))
    for name, path in PICTURES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links into those of the site; one that leads nowhere stays, and mkdocs complains about it."""
    name = page.file.src_uri
    source = PAGES.get(name, f"docs/{name}")

    def target(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        place = SITE.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        return link[1] if place is None else posixpath.relpath(place, posixpath.dirname(name) or ".")

    return LINK.sub(target, markdown)
