"""The real Snakefile, run in a folder of its own with a configuration of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import warm
import yaml

ROOT = Path(__file__).parents[2]


@dataclass
class Project:
    """A working directory that holds config/, and later data/ and results/."""

    folder: Path
    python: str
    """What starts quickly, see `warm`."""
    snakefile = ROOT / "Snakefile"

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self.python, *self.command(*arguments)[1:]]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """The same beside the test, in a process group of its own."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def command(self, *arguments: str) -> list[str | Path]:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--directory", self.folder]
        return [*command, "--snakefile", self.snakefile, *arguments]

    def planned(self, *arguments: str) -> dict[str, int]:
        """Number of jobs of each rule in a dry run."""
        run = self.snakemake("--dry-run", *arguments)
        assert run.returncode == 0, run.stdout + run.stderr
        table = re.search(r"^Job stats:\n.*\n.*\n((?:\S+ +\d+\n)+)", run.stdout, re.MULTILINE)
        rows = table[1].splitlines() if table else []
        return {rule: int(count) for rule, count in map(str.split, rows) if rule != "total"}

    def refused(self, *arguments: str) -> str:
        """The one line in which a run was refused before any job."""
        run = self.snakemake(*arguments)
        assert run.returncode == 1, run.stdout + run.stderr
        assert not (self.folder / "results").exists()
        assert not (self.folder / "data").exists()
        output = run.stdout + run.stderr
        assert "Traceback" not in output and "Exception" not in output, output
        (line,) = (line for line in output.splitlines() if line.startswith("Error: "))
        assert output.endswith(line + "\n")
        return line

    def edit(self, file: str, *path: str, value: object) -> None:
        """Sets one value of a YAML file."""
        file_ = self.folder / "config" / file
        values = section = yaml.safe_load(file_.read_text())
        for key in path[:-1]:
            section = section[key]
        section[path[-1]] = value
        file_.write_text(yaml.safe_dump(values))


@pytest.fixture(scope="session")
def python() -> Iterator[str]:
    with warm.python() as program:
        yield program


@pytest.fixture
def project(tmp_path: Path, python: str) -> Project:
    """The configuration and recipes that are shipped."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    return Project(tmp_path, python)


@pytest.fixture(scope="module")
def finished_project(finished: Path, python: str) -> Project:
    """What an earlier version has finished."""
    return Project(finished, python)


@pytest.fixture(scope="module")
def tiny_project(tmp_path_factory: pytest.TempPathFactory, python: str) -> Project:
    """A folder without any configuration yet, for the tests of one file together."""
    return Project(tmp_path_factory.mktemp("tiny"), python)
