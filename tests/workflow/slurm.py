"""A Slurm of one node on this machine's loopback, with two GPUs that it only pretends to have."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

# No job waits for another: CPUs and memory are said to be more than there are.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/prolog
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
EnforcePartLimits=ALL
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
MinJobAge=86400
KillWait=2
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=localhost CPUs=16 RealMemory=512000 Gres=gpu:2
PartitionName=cpu Nodes=localhost Default=YES
PartitionName=gpu Nodes=localhost
"""

# A GPU must have a character device.
GRES_CONF = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"

# What a job finds on the node alone: its number as PBS calls it, and CUDA's library.
PROLOG = """\
#!/bin/sh
echo "export PBS_JOBID=$SLURM_JOB_ID"
echo "export LD_LIBRARY_PATH={libcuda}"
echo "export LIBCUDA_LOG={folder}/asked"
"""

# Snakemake's plugin takes SLURM_CONF from its job steps; a cluster has that file in /etc.
SRUN = """\
#!/bin/sh
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""
# The plugin asks ever less often while no job ends. This answers when one more has ended.
SQUEUE = """\
#!/bin/sh
for wait in $(seq 300); do
    answer=$({squeue} "$@") || exit
    ended=$(echo "$answer" | grep -c -e COMPLETED -e FAILED -e CANCELLED -e TIMEOUT)
    [ "$ended" = "$(cat {folder}/ended)" ] || break
    sleep 0.4
done
echo "$ended" >{folder}/ended
echo "$answer"
"""


@dataclass
class Slurm:
    """What is needed to talk to the daemons."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *command: str) -> str:
        """Output of one of Slurm's commands."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
        return done.stdout

    def jobs(self, comment: str = "") -> list[dict[str, str]]:
        """Jobs with such a comment, finished ones too, as Slurm describes them; oldest first."""
        lines = self("scontrol", "--oneliner", "show", "jobs").splitlines()
        jobs = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
        return [job for job in jobs if "JobId" in job and comment in job.get("Comment", "")]

    def gpus_seen(self, job: dict[str, str]) -> list[tuple[str, str]]:
        """Each look of a job's step for its GPUs: the number of the process among those that were
        launched alike, and ``CUDA_VISIBLE_DEVICES``."""
        rows = [line.split() for line in (self.folder / "asked").read_text().splitlines()]
        # The batch script, which is no step, looks too: three words.
        return [(row[2], row[3]) for row in rows if row[0] == job["JobId"] and len(row) == 4]

    def processes(self, job: str) -> list[int]:
        """Process ids of a job's step."""
        rows = [line.split() for line in self("scontrol", "listpids", job).splitlines()]
        return [int(row[0]) for row in rows if row[2] == "0" and int(row[0]) > 0]


@contextmanager
def slurm(libcuda: Path) -> Iterator[Slurm]:
    """Starts the daemons, skips where one is missing, and ends them with all their jobs.

    Args:
        libcuda: the folder of CUDA's library on the node.
    """
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
    for program in ("munged", "slurmctld", "slurmd", "sbatch"):
        if shutil.which(program, path=path) is None:
            pytest.skip(
                f"{program} is not installed; on Debian:"
                " apt-get install munge slurmctld slurmd slurm-client"
            )
    # Not pytest's folder: paths of sockets must be short.
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True))
        )
        folder.chmod(0o755)
        _configure(folder, path, libcuda)
        path = f"{folder / 'bin'}{os.pathsep}{path}"
        cluster = Slurm(
            folder, os.environ | {"SLURM_CONF": f"{folder / 'slurm.conf'}", "PATH": path}
        )
        stack.callback(_kill, folder)
        files = {"key-file": folder / "munge.key", "socket": folder / "munge.socket"}
        files |= {f"{name}-file": folder / f"munged.{name}" for name in ("pid", "log", "seed")}
        cluster("munged", *(f"--{name}={path}" for name, path in files.items()))
        cluster("slurmctld")
        cluster("slurmd")
        for _ in range(60):
            with suppress(AssertionError):
                if cluster("sinfo", "--noheader", "--format=%T").split() == ["idle"]:
                    break
            time.sleep(0.5)
        else:
            raise AssertionError((folder / "slurmctld.log").read_text())
        stack.callback(_cancel_all, cluster)
        yield cluster


def _configure(folder: Path, path: str, libcuda: Path) -> None:
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        controller, node = (free.getsockname()[1] for free in (first, second))
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    names = {"folder": folder, "user": getpass.getuser(), "libcuda": libcuda}
    names |= {program: shutil.which(program, path=path) for program in ("srun", "squeue")}
    conf = SLURM_CONF.format(**names, controller=controller, node=node)
    (folder / "slurm.conf").write_text(conf)
    (folder / "gres.conf").write_text(GRES_CONF)
    scripts = {"prolog": PROLOG, "bin/srun": SRUN, "bin/squeue": SQUEUE}
    for name, script in scripts.items():
        (folder / name).write_text(script.format(**names))
        (folder / name).chmod(0o755)
    (folder / "ended").write_text("0")
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)


def _cancel_all(cluster: Slurm) -> None:
    cluster("scancel", f"--user={getpass.getuser()}")
    for _ in range(100):
        if not {"RUNNING", "COMPLETING"} & {job["JobState"] for job in cluster.jobs()}:
            break
        time.sleep(0.2)


def _kill(folder: Path) -> None:
    for name in ("slurmd", "slurmctld", "munged"):
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGKILL)
