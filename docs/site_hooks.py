"""Hooks of `mkdocs build`: pages that live elsewhere in the repository, and the API reference.

Links between these pages and those of docs/ are written so that they work on a repository's web page; here they are
turned into links of the site.
"""

from __future__ import annotations

import importlib.util
import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("api_pages", Path(__file__).with_name("api_pages.py"))
assert _spec
assert _spec.loader
api_pages = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(api_pages)
PAGES = {
    "model_card.md": "mirage_env/weights/rooms/README.md",
    "benchmarks.md": "benchmarks/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Page of the site to the file it is."""
NOTEBOOK = "examples/first_steps.ipynb"
PICTURES = {"curves.png": "mirage_env/weights/rooms/curves.png"}
SITE = {path: name for name, path in (PAGES | PICTURES).items()}
SITE |= {"README.md": "index.md", "LICENSE": "index.md", NOTEBOOK: "notebook.md"}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")


def on_config(config: MkDocsConfig) -> None:
    """Fill the navigation of the API reference."""
    names = sorted((*api_pages.PACKAGES, *api_pages.MODULES))
    [reference] = [entry for entry in config.nav or [] if isinstance(entry, dict) and "API reference" in entry]
    reference["API reference"] = [{name: f"reference/{name}.md"} for name in names]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from elsewhere."""
    for name, path in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text()))
    files.append(File.generated(config, "notebook.md", content=_notebook_page()))
    for name, path in PICTURES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    entries = config.plugins["mkdocstrings"].config.enabled
    for name in (*api_pages.PACKAGES, *api_pages.MODULES):
        files.append(File.generated(config, f"reference/{name}.md", content=api_pages.page_of(name, entries)))
    return files


def _notebook_page() -> str:
    """Cells of the notebook, without what they show."""
    cells = json.loads((ROOT / NOTEBOOK).read_text())["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    code = [cell["cell_type"] == "code" for cell in cells]
    return "\n\n".join(f"```python\n{t}\n```" if c else t for t, c in zip(texts, code, strict=True))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links into those of the site; one that leads nowhere stays, and mkdocs complains about it."""
    name = page.file.src_uri
    if name.startswith("reference/"):
        return markdown
    source = PAGES.get(name, f"docs/{name}")

    def target(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        place = SITE.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        return link[1] if place is None else posixpath.relpath(place, posixpath.dirname(name) or ".")

    return LINK.sub(target, markdown)
