"""MkDocs' hook: the site has the pages where they lie in the repository.

So a link between two of them, or to a file beside them, is the same on a code host and in the site.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages of ``nav``, and what they link to, by their paths in the repository."""
    root = Path(config.config_file_path).parent
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    wanted = pages(config.nav)
    for path in wanted:  # grows on the way
        files.append(File.generated(config, path, abs_src_path=str(root / path)))
        if path.endswith(".md"):
            for link in LINK.findall((root / path).read_text(encoding="utf-8")):
                target = (root / path).parent.joinpath(link).resolve()
                name = target.relative_to(root.resolve()).as_posix()
                if target.is_file() and name not in wanted:
                    wanted.append(name)
    return files


def pages(nav: object) -> list[str]:
    """Paths of the pages that a site's navigation names, in its order."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages(part)]
