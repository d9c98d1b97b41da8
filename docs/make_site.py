"""Builds the documentation site: ``make site``, or ``python docs/make_site.py``. No network is needed.

Pages are gathered in ``build/site/pages`` and rendered to ``build/site/html`` by Zensical, in strict mode: a link
or an anchor that leads nowhere ends the build. What is gathered: ``docs/*.md``, a few pages from elsewhere in the
repository (`MOVED`), the pages of ``docs/site`` and the notebooks. A link to any other file of the repository takes
that file along (`Gathered.place`), so the site is whole without the repository and without an address of it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

from notebook_pages import notebook_page

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "site"
CONFIGURATION = "docs/site/mkdocs.yml"
MOVED = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "weights/README.md": "weights.md",
}
"""Pages from elsewhere in the repository, and their place on the site."""
OTHERS = "repository"
"""Folder of the site for files that a page links to and that are no pages."""
SHOWN_AS_CODE = {".py": "python", ".toml": "toml", ".sh": "sh", ".txt": "text"}
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
FENCED = re.compile(r"(^ *```.*?^ *```)", re.DOTALL | re.MULTILINE)
EXTERNAL = re.compile(r"^[a-z]+:")


class Gathered:
    """The site's pages, which grow by the files that they link to.

    Parameters
    ----------
    root
        The repository.
    folder
        Where the pages are written; it should be empty.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self._there: set[str] = set()

    def add(self, source: str) -> None:
        """Write the page, the view or the copy of one file or folder of the repository, and of all it links to."""
        if source in self._there:
            return
        self._there.add(source)
        path, place = self.root / source, self.place(source)
        if path.is_dir():
            self.write(place, self._listing(source))
        elif path.suffix == ".md":
            self.write(place, self.with_links(path.read_text(encoding="utf-8"), source, place))
        elif path.suffix == ".ipynb":
            text, pictures = notebook_page(path, lambda said: self.with_links(said, source, place))
            self.write(place, text)
            for name, content in pictures.items():
                (self.folder / place).with_name(name).write_bytes(content)
        elif path.suffix in SHOWN_AS_CODE:
            text, language = path.read_text(encoding="utf-8").rstrip(), SHOWN_AS_CODE[path.suffix]
            self.write(place, f"# {path.name}\n\n`{source}`\n\n````{language}\n{text}\n````\n")
        else:
            (self.folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, self.folder / place)

    def place(self, source: str) -> str:
        """Return where a file or a folder of the repository is on the site.

        Raises ValueError where the repository has none of this name.
        """
        path = self.root / source
        if not path.exists():
            raise ValueError(f"{source} is linked to, but is neither a file nor a folder of the repository")
        if source in MOVED:
            return MOVED[source]
        if source.startswith("docs/") and path.suffix in (".md", ".png", ".svg"):
            return source.removeprefix("docs/")
        if path.suffix == ".ipynb":
            return str(PurePosixPath(source).with_suffix(".md"))
        if path.is_dir():
            return f"{OTHERS}/{source}/index.md"
        if path.suffix in SHOWN_AS_CODE:
            return f"{OTHERS}/{source}.md"
        return f"{OTHERS}/{source}"

    def with_links(self, text: str, source: str, place: str) -> str:
        """Return a page's text with its links led to the site's places; what they lead to is added."""
        parts = FENCED.split(text)
        parts[::2] = [LINK.sub(lambda found: self._led(found, source, place), one) for one in parts[::2]]
        return "".join(parts).replace("<details>", '<details markdown="1">')

    def write(self, place: str, text: str) -> None:
        """Write a page of the site."""
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _led(self, found: re.Match[str], source: str, place: str) -> str:
        target, _, anchor = found[2].partition("#")
        if not target or EXTERNAL.match(target):
            return found[0]
        wanted = os.path.normpath(PurePosixPath(source).parent / target)
        self.add(wanted)
        there = os.path.relpath(self.place(wanted), PurePosixPath(place).parent)
        return f"{found[1]}{there}{'#' if anchor else ''}{anchor}{found[3]}"

    def _listing(self, source: str) -> str:
        files = sorted(
            one.relative_to(self.root).as_posix() for one in (self.root / source).rglob("*") if one.is_file()
        )
        lines = [f"# {source}", ""]
        for one in files:
            self.add(one)
            there = os.path.relpath(self.place(one), PurePosixPath(self.place(source)).parent)
            lines.append(f"- [{one.removeprefix(f'{source}/')}]({there})")
        return "\n".join([*lines, ""])


def gather(folder: Path, root: Path = ROOT) -> None:
    """Write every page of the site, as Markdown, and what the pages show and link to."""
    pages = Gathered(root, folder)
    for one in sorted((root / "docs").glob("*.md")):
        pages.add(one.relative_to(root).as_posix())
    for source in MOVED:
        pages.add(source)
    for one in sorted((root / "docs" / "site").rglob("*")):
        if one.suffix in (".md", ".css"):
            pages.write(one.relative_to(root / "docs" / "site").as_posix(), one.read_text(encoding="utf-8"))
    for one in sorted((root / "notebooks").glob("*.ipynb")):
        pages.add(one.relative_to(root).as_posix())


def build(where: Path = BUILD) -> Path:
    """Build the site anew and return the folder of its HTML.

    Raises
    ------
    ModuleNotFoundError
        Without Zensical, which ``pip install '.[dev]'`` brings.
    subprocess.CalledProcessError
        For a link or an anchor that leads nowhere, or a name of the reference that the package does not have.
    """
    shutil.rmtree(where, ignore_errors=True)
    gather(where / "pages")
    shutil.copyfile(ROOT / CONFIGURATION, where / "mkdocs.yml")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(where / "mkdocs.yml")]
    subprocess.run(command, check=True, cwd=ROOT)
    return where / "html"


if __name__ == "__main__":
    print(build() / "index.html")  # noqa: T201 - what a caller opens
