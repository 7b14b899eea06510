"""Links that lead out of docs/, for the built site (a hook of ``mkdocs.yml``).

A page of docs/ links to pages, pictures and code elsewhere in the repository, as Markdown in a checkout does. The site
holds docs/ alone: pages and pictures that are linked are taken into it, at their path in the repository; of a link
to code, a setting or a folder the text stays.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
TAKEN = {".md", ".png"}
# Of Sphinx's roles in docstrings, before the name that they mark.
ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):(<code>)~?")
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def target_of(page: Path, link: str) -> Path | None:
    """File or folder of this repository that a link of a page leads to; None: something else."""
    target = Path(os.path.normpath(page.parent / link))
    return target if "://" not in link and target.is_relative_to(ROOT) and target.exists() else None


def is_taken(target: Path) -> bool:
    """Whether a file outside docs/ becomes part of the site."""
    return target.is_file() and target.suffix in TAKEN and not target.is_relative_to(DOCS)


def address(file: Path) -> str:
    """Path of a file in the site: below docs/ for its own, below the repository for others."""
    return file.relative_to(DOCS if file.is_relative_to(DOCS) else ROOT).as_posix()


def taken_files() -> list[Path]:
    """Files outside docs/ that its pages link to, directly or through each other."""
    found: list[Path] = []
    pages = sorted(DOCS.rglob("*.md"))
    while pages:
        page = pages.pop()
        for link in LINK.finditer(page.read_text()):
            target = target_of(page, link["target"])
            if target is not None and is_taken(target) and target not in found:
                found.append(target)
                pages += [target] if target.suffix == ".md" else []
    return sorted(found)


def with_site_links(markdown: str, page: Path) -> str:
    """Rewrite the links of a page to where their targets are in the site."""

    def rewritten(link: re.Match) -> str:
        target = target_of(page, link["target"])
        if target is None:
            return link[0]
        if not target.is_relative_to(DOCS) and not is_taken(target):
            return link["text"]
        path = os.path.relpath(address(target), os.path.dirname(address(page)) or ".")
        return f"{link['picture']}[{link['text']}]({path}{link['anchor'] or ''})"

    return LINK.sub(rewritten, markdown)


def on_files(files, config):
    """Add what pages link to (called by mkdocs before it reads the menu)."""
    from mkdocs.structure.files import File

    for file in taken_files():
        files.append(File.generated(config, address(file), abs_src_path=str(file)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite the links of one page (called by mkdocs)."""
    return with_site_links(markdown, Path(page.file.abs_src_path))


def on_page_content(html, page, config, files):
    """Take Sphinx's roles out of docstrings: the site reads Markdown (called by mkdocs)."""
    return ROLE.sub(r"\1", html)
