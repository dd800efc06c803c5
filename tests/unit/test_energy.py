"""Counters in folders that are laid out as the kernel lays them out."""

import json

import pytest

from adafocus.machine.energy import Processors, gpu_joules, metered

RANGE = 262_143_328_850
"""Microjoules after which a counter begins anew, of a server."""
ZONES = {
    "intel-rapl": None,
    "intel-rapl:0": "package-0",
    "intel-rapl:0:0": "core",
    "intel-rapl:0:1": "dram",
    "intel-rapl:1": "psys",
    "intel-rapl:2": "package-1",
    "intel-rapl-mmio:0": "package-0",
}


@pytest.fixture
def powercap(tmp_path):
    """Sets the counters of a folder of zones that it makes."""

    def counters(*microjoules, name="powercap"):
        values = iter(microjoules)
        for zone, what in ZONES.items():
            folder = tmp_path / name / zone
            folder.mkdir(parents=True, exist_ok=True)
            if what:
                (folder / "name").write_text(f"{what}\n")
                (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
                (folder / "energy_uj").write_text(f"{next(values)}\n")
        return tmp_path / name

    return counters


def test_packages_and_memory_count_once(powercap, tmp_path):
    path = tmp_path / "benchmarks" / "demo_splits.energy.json"
    folder = powercap(10, 20, 30, 40, 50, 60)
    with metered(path, [], folder):
        assert not path.exists()
        powercap(2_000_010, 7, 500_030, 9e9, 1_000_050, 9e9)
    assert json.loads(path.read_text()) == {"cpu_joules": 3.5}


def test_a_counter_goes_round(powercap):
    processors = Processors(powercap(RANGE - 1_000_000, 0, 0, 0, 0, 0))
    powercap(3_000_000, 0, 0, 0, 0, 0)
    processors.read()
    powercap(2_000_000, 0, 0, 0, 0, 0)
    assert processors.close() == pytest.approx(4 + RANGE / 1e6 - 1)


def test_what_the_machine_does_not_tell_is_left_out(powercap, tmp_path):
    path = tmp_path / "x.energy.json"
    path.write_text('{"cpu_joules": 1.0}')
    still = powercap(1, 1, 1, 1, 1, 1)
    refused = powercap(1, 1, 1, 1, 1, 1, name="refused")
    (refused / "intel-rapl:2" / "energy_uj").unlink()
    (refused / "intel-rapl:2" / "energy_uj").mkdir()  # root could read a file without rights
    for folder in (still, refused, tmp_path / "none"):
        with metered(path, [], folder):
            pass
        assert not path.exists()
    with pytest.raises(KeyError), metered(path, [], powercap(1, 1, 1, 1, 1, 1)):
        powercap(2, 1, 1, 1, 1, 1)
        raise KeyError
    assert not path.exists()


def test_a_counter_that_goes_away_is_no_error(powercap):
    folder = powercap(1, 1, 1, 1, 1, 1)
    processors = Processors(folder)
    (folder / "intel-rapl:0" / "energy_uj").unlink()
    assert processors.close() is None


def test_it_tells_how_many_gpus_there_were(tmp_path):
    path = tmp_path / "x.energy.json"
    with metered(path, ["GPU-00000000-0000-0000-0000-000000000000"] * 2, tmp_path):
        pass
    assert json.loads(path.read_text()) == {"gpus": 2}


def test_a_gpu_that_is_not_there_tells_nothing():
    assert gpu_joules([]) is None
    assert gpu_joules(["GPU-00000000-0000-0000-0000-000000000000"]) is None
