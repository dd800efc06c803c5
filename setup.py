"""The wheel carries the workflow and its configuration, which lie beside the package here."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            carried = Path(self.build_lib, "adafocus", "carried")
            shutil.rmtree(carried, ignore_errors=True)
            left_out = shutil.ignore_patterns("__pycache__")
            for folder in ("workflow", "config"):
                shutil.copytree(folder, carried / folder, ignore=left_out)
            for file in ("Snakefile", "environment.yml"):
                shutil.copy(file, carried)


setup(cmdclass={"build_py": BuildPy})
