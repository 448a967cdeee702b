"""How ranks are started here: more than there are cores, on this machine alone, by root too.

By the MPI's own launcher, or by SLURM's where TAPECACHE_TEST_LAUNCHER is srun.
"""

import os
import shutil

LAUNCHERS = {"openmpi": ("mpiexec.openmpi", "mpiexec"), "mpich": ("mpiexec.mpich", "mpiexec.hydra", "mpiexec")}


def is_slurm() -> bool:
    return os.environ.get("TAPECACHE_TEST_LAUNCHER") == "srun"


def launcher_of(kind: str) -> "str | None":
    if is_slurm():
        return shutil.which("srun")
    return next(filter(None, map(shutil.which, LAUNCHERS[kind])), None)


def launch_command(kind: str, ranks: int, transport: str = "memory") -> "list[str]":
    if is_slurm():
        interface = {"openmpi": "pmix", "mpich": "pmi2"}[kind]
        return [launcher_of(kind), f"--mpi={interface}", "--kill-on-bad-exit=1", "--overcommit", "-n", str(ranks)]
    if kind == "mpich":
        return [launcher_of(kind), "-launcher", "fork", "-n", str(ranks)]
    layers = "self,tcp" if transport == "network" else "self,vader"
    settings = {"pml": "ob1", "btl": layers, "btl_tcp_if_include": "lo", "plm": "isolated"}
    return [launcher_of(kind), "--allow-run-as-root", "--oversubscribe", "--bind-to", "none",
            *(word for name, value in settings.items() for word in ("--mca", name, value)), "-n", str(ranks)]


def launch_environment(transport: str = "memory") -> "dict[str, str]":
    # A container forbids one process to read another's memory; and libraries of MPI leak.
    return {**os.environ, "ASAN_OPTIONS": "detect_leaks=0",
            "OMPI_MCA_btl_vader_single_copy_mechanism": "none", "OMPI_MCA_mpi_yield_when_idle": "1",
            "UCX_TLS": "self,tcp" if transport == "network" else "self,sm,tcp", "UCX_NET_DEVICES": "lo"}
