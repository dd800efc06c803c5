"""What the documentation names is there."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
IN_TREE = r"(?:adafocus|benchmarks|config|docs|tests|workflow)/[\w./-]*[\w/]"
MADE = re.compile(r"config/recipes/mine\.(yaml|csv)")
"""What the commands on the pages make."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
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
