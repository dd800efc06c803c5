"""What trains needs no program and no service: a machine may have torch and little else."""

import subprocess
import sys

CODE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import adafocus.training.engine, adafocus.evaluation.flops, adafocus.data.clips
print(*sorted({absent} & sys.modules.keys()))
"""


def test_the_core_needs_no_ffmpeg_and_no_service():
    missing = {"ffmpeg", "imageio_ffmpeg", "mlflow", "ray", "snakemake", "typer", "requests"}
    code = CODE.format(missing=missing, absent={"pandas", "matplotlib", "sklearn.linear_model"})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
