"""What the documentation names is there."""

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from hook import pages

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / page for page in pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])]
IN_TREE = r"(?:adafocus|benchmarks|config|docs|tests|workflow)/[\w./-]*[\w/]"
MADE = re.compile(r"config/recipes/mine\.(yaml|csv)")
"""What the commands on the pages make."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_on_pages_are_there(page):
    named = set(re.findall(rf"(?<![\w./-]){IN_TREE}", page.read_text()))
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    missing = [path for path in named if not (ROOT / path).exists() and not MADE.match(path)]
    missing += [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_what_the_architecture_names_is_where_it_says():
    """Each name in backquotes before `in` or `of` a file of the package."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert len(page.splitlines()) <= 120
    told = re.findall(r"((?:`[\w.]+`(?: and )?)+)\s+(?:in|of)\s+(adafocus/[\w/]+\.py)", page)
    assert len(told) >= 8
    for names, path in told:
        source = (ROOT / path).read_text()
        for name in re.findall(r"`([\w.]+)`", names):
            last = name.rpartition(".")[2]
            assert re.search(rf"\b(class|def) {last}\b|^(    )?{last}\b *[:=]", source, re.M), name


def test_no_two_classes_of_the_package_have_one_name():
    places = defaultdict(list)
    for path in sorted((ROOT / "adafocus").rglob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path.name)
    assert len(places) > 80
    assert not {name: paths for name, paths in places.items() if len(paths) > 1}


def test_every_page_is_in_the_site():
    there = {*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")}
    assert there <= set(PAGES)


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_site_is_built_strictly_and_its_links_lead_somewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    built = sorted(tmp_path.rglob("*.html"))
    assert len(built) > len(PAGES)
    dead = []
    for page in built:
        for link in re.findall(r'(?:href|src)="?([^"\s>#?]+)', page.read_text()):
            if page.name != "404.html" and not re.match(r"\w+:|//", link):
                target = page.parent / unquote(link)
                dead += [] if target.is_file() else [(page.name, link)]
    assert not dead
    assert (tmp_path / "docs" / "demo_sheet.png").exists()


def test_errors_on_the_page_are_those_of_the_code():
    """Each part between dots of what a line of the page quotes."""
    said = [(ROOT / "Makefile").read_text()]
    for path in (*(ROOT / "adafocus").rglob("*.py"), *(ROOT / "workflow").rglob("*.py")):
        said += map(_words, ast.walk(ast.parse(path.read_text("utf-8"))))
    said += [
        re.sub(r'"\s*f?"', "", path.read_text()) for path in (ROOT / "workflow").rglob("*.smk")
    ]
    code = "\n".join(said)
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `(.+?)` \|", page, re.MULTILINE)
    assert len(quoted) > 40
    parts = [part for line in quoted for part in re.split(r"\.\.\.", line) if len(part) > 3]
    assert not [part for part in parts if part.strip() not in code]


def _words(node: ast.AST) -> str:
    """A string of the code, with its values as dots."""
    if isinstance(node, ast.JoinedStr):
        values = (one.value if isinstance(one, ast.Constant) else "..." for one in node.values)
        return "".join(map(str, values))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
