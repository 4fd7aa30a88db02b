"""MkDocs hooks: linked files of the repository become part of the site, links are checked, names in tables can break.

Links in the documentation are relative paths in the repository, so that they work wherever its files are shown. A link
that leaves docs/ leads to a copy of that file under repository/ in the site: a page if it is Markdown, else the file.
"""

import os
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

COPIES = "repository"
CHANGELOG = "CHANGELOG.md"
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")
TARGET = re.compile(r'(?:href|src)="(?!https?:|mailto:|data:|//)([^"#?]+)')
TABLE_CELL = re.compile(r"<td.*?</td>", re.DOTALL)
CODE = re.compile(r"(?<=<code>)[^<]+(?=</code>)")
PARTS_OF_A_NAME = re.compile(r"(?<=[/.:_])(?=\w)(?!py\b)|(?<=[a-z0-9])(?=[A-Z][a-z])")  # path/to_file.py, ClassName


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the linked files outside docs/, and what those link to."""
    root = Path(config.docs_dir).parent
    unread = [file.abs_src_path for file in files.documentation_pages()]
    unread.append(add_copy(files, config, CHANGELOG))
    while unread:
        path = Path(unread.pop())
        for link in LINK.findall(path.read_text(encoding="utf-8")):
            target = repository_path(path, link, root)
            if is_outside(target) and (root / target).is_file() and not files.get_file_from_path(site_path(target)):
                copy = add_copy(files, config, target)
                unread += [copy] if target.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links between paths of the repository links between paths of the site."""
    root = Path(config.docs_dir).parent
    source = Path(page.file.abs_src_path)

    def relink(match: re.Match) -> str:
        target = site_path(repository_path(source, match[1], root))
        return posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(relink, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets a browser break long names in tables between their parts."""

    def break_names(cell: re.Match) -> str:
        return CODE.sub(lambda name: PARTS_OF_A_NAME.sub("<wbr>", name[0]), cell[0])

    return TABLE_CELL.sub(break_names, html)


def on_post_build(config: MkDocsConfig) -> None:
    """Fails if the site links to a file that it does not contain: MkDocs only mentions links to excluded files."""
    site = Path(config.site_dir)
    missing = [
        f"{page.relative_to(site)}: {target}"
        for page in site.rglob("*.html")
        if page.name != "404.html"
        for target in TARGET.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / unquote(target)).exists()
    ]
    if missing:
        raise PluginError(f"links to files that are not part of the site: {', '.join(missing)}")


def add_copy(files: Files, config: MkDocsConfig, path: str) -> str:
    """Adds a file of the repository to the site; returns its absolute path."""
    source = str(Path(config.docs_dir).parent / path)
    files.append(File.generated(config, site_path(path), abs_src_path=source))
    return source


def repository_path(source: Path, link: str, root: Path) -> str:
    """Path in the repository of what a file links to."""
    return Path(os.path.relpath(source.parent / link, root)).as_posix()


def is_outside(path: str) -> bool:
    """Whether a path of the repository is outside docs/."""
    return not path.startswith("docs/")


def site_path(path: str) -> str:
    """Source path in the site of a path of the repository."""
    return f"{COPIES}/{path}" if is_outside(path) else path.removeprefix("docs/")
