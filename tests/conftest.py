import os
import shutil
import sqlite3
import subprocess
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

# Before torch is imported: threads of several processes on few cores spin against each other.
for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"


# Whole files go to one process each: first those that take minutes.
LONGEST = (
    "test_demo.py",
    "test_slurm.py",
    "test_few_videos.py",
    "test_readme.py",
    "test_sweeps_ray.py",
    "test_chain.py",
    "test_tracking_server.py",
    "test_speed.py",
    "test_upgrade.py",
    "test_distributed.py",
    "test_engine.py",
    "test_export.py",
    "test_exits.py",
    "test_plan.py",
    "test_youtube.py",
    "test_data_sets.py",
    "test_own_videos.py",
    "test_later_version.py",
    "test_evaluation.py",
    "test_extras.py",
)


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which commit 78f3339 has finished its chains, see tests/golden/README.md."""
    folder = tmp_path_factory.mktemp("upgrade")
    with tarfile.open(Path(__file__).parent / "golden" / "finished_78f3339.tar.xz") as archive:
        archive.extractall(folder, filter="tar")
    (project,) = folder.iterdir()
    videos = project / "data" / "pets" / "videos"
    videos.unlink()
    videos.symlink_to(project / "my videos")
    places = (
        ("experiments", "artifact_location"),
        ("runs", "artifact_uri"),
        ("logged_models", "artifact_location"),
    )
    with closing(sqlite3.connect(project / "results" / "mlflow.db")) as store, store:
        for table, column in places:
            moved = f"replace({column}, '/tmp/adafocus-78f3339/finished', ?)"
            store.execute(f"update {table} set {column} = {moved}", [str(project)])
    return project


@pytest.fixture
def browser():
    """Headless Chromium that reaches nothing but local files and servers of this machine, with the
    logs of its console and of its requests."""
    selenium = pytest.importorskip("selenium.webdriver")
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, path in programs.items():
        if path is None:
            pytest.skip(f"{name} is not installed; on Debian: apt-get install chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = programs["chromium"]
    # The first two are for root in a container. Nothing listens at the proxy, which loopback
    # addresses do not take.
    for argument in ("no-sandbox", "disable-dev-shm-usage", "headless=new", "disable-gpu"):
        options.add_argument(f"--{argument}")
    options.add_argument("--proxy-server=127.0.0.1:9")
    options.add_argument("--window-size=1600,1400")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options, selenium.ChromeService(programs["chromedriver"]))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def libcuda(tmp_path_factory):
    """Folder of CUDA's library for `LD_LIBRARY_PATH`, as on a machine with two GPUs; see the C."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is installed; on Debian: apt-get install gcc")
    folder = tmp_path_factory.mktemp("libcuda")
    source = Path(__file__).with_name("libcuda.c")
    library = folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return folder


@pytest.fixture
def two_gpus(libcuda, tmp_path, monkeypatch):
    """A machine on which CUDA shows two GPUs, to other processes than that of the test."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libcuda))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for variable in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(variable, raising=False)
