"""A real Slurm cluster on this machine, for as long as a test needs one.

Each node is a process with its own network, host name, process ids and mounts, in which slurmd runs: what Slurm starts
on a node is seen there alone, and killing that one process is the crash of the node with all that ran on it. GPUs are
pretended: Slurm hands them out, and nothing can be computed on them. All files lie in one folder.

    python tests/slurm/local_cluster.py      starts a cluster, prints how to use it, stops it at Ctrl-C
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare")
# Only for clusters that keep accounts: tests that want one are skipped where these are not, and never install them.
ACCOUNTING_PACKAGES = ("slurmdbd", "mariadb-server-core")
ACCOUNTING_PROGRAMS = ("slurmdbd", "sacctmgr", "mariadbd")
DATABASE_TABLES = Path("/usr/share/mysql/mysql_system_tables.sql")  # what the database itself needs
GPUS = 8  # on each node, as on the machines of the published recipe
HEAD = socket.gethostname().split(".")[0]

CONFIGURATION = """
ClusterName=local
SlurmctldHost={head}({address})
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A job that was put back into the queue waits until its old credentials have expired.
AuthInfo=socket={folder}/munge/socket,cred_expire=6
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
MpiDefault=none
AccountingStorageType=accounting_storage/{accounting}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
JobCompType=jobcomp/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=6
# As long, but at least a minute, srun waits for busy nodes before it says so.
SlurmctldTimeout=10
KillWait=2
MinJobAge=300
SchedulerParameters=sched_interval=1,bf_interval=1
{more}
{nodes}
PartitionName=cpu Nodes=ALL Default=YES MaxTime=1-0 PriorityTier=5
PartitionName=gpu Nodes=ALL MaxTime=1-0 PriorityTier=5
PartitionName=requeued Nodes=ALL MaxTime=1-0 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=cancelled Nodes=ALL MaxTime=1-0 PriorityTier=1 PreemptMode=CANCEL
PartitionName=urgent Nodes=ALL MaxTime=1-0 PriorityTier=9
"""

ACCOUNTING = """
AccountingStorageHost={head}
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge/socket
AccountingStorageEnforce=associations,limits,qos
"""

ACCOUNTING_DAEMON = """
DbdHost={head}
DbdAddr={address}
DbdPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=root
StorageLoc=accounts
"""

NODE = """
hostname {name}
ip link set lo up
for file in hosts nsswitch.conf; do mount --bind {folder}/$file /etc/$file; done
mkdir -p /etc/slurm
mount --bind {folder}/etc /etc/slurm
until ip link set eth0 up 2> /dev/null; do sleep 0.05; done
ip address add {address}/24 dev eth0
exec slurmd -D {options}
"""


def why_not() -> str | None:
    """Why no cluster can be started here; None if one can. Installs Slurm where that is allowed."""
    if os.geteuid() != 0:
        return "it needs root"
    if any(shutil.which(program) is None for program in PROGRAMS):
        if shutil.which("apt-get") is None:
            return "Slurm is not installed, and there is no apt-get to install it"
        failure = _install()
        if failure is not None:
            return f"Slurm cannot be installed: {failure}"
    tried = subprocess.run(["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true"], capture_output=True)
    return None if tried.returncode == 0 else f"no namespaces are allowed: {tried.stderr.decode().strip()}"


def why_no_accounts() -> str | None:
    """Why no cluster that keeps accounts can be started here; None if one can."""
    if any(shutil.which(program) is None for program in ACCOUNTING_PROGRAMS):
        return f"{' and '.join(ACCOUNTING_PACKAGES)} are not installed"
    return why_not()


def _install() -> str | None:
    """Install Slurm with apt, without starting a service. Returns what went wrong."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True)
        if done.returncode != 0 and command[0] == "install":
            return done.stderr.strip()[-300:]
    return None


class LocalCluster:
    """A controller on this machine and some nodes, made in a new folder.

    With `accounts` it keeps accounts, and holds jobs to the limits that sacctmgr sets; `more` are lines of slurm.conf.
    """

    def __init__(
        self, nodes: int = 2, cpus: int = 64, memory_mb: int = 512_000, accounts: bool = False, more: str = ""
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.names = [f"node{number}" for number in range(1, nodes + 1)]
        self._cpus, self._memory_mb = cpus, memory_mb
        self._accounts, self._more = accounts, more
        chance = random.Random(os.urandom(8))
        # Names and addresses that another cluster on this machine is unlikely to have.
        self._bridge = f"slurm{chance.randrange(10**6)}"
        self._network = f"10.{chance.randrange(64, 250)}.{chance.randrange(250)}"
        self._port, self._accounts_port, self._database_port = chance.sample(range(20_000, 30_000), 3)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """For programs on this machine that shall use the cluster."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "etc/slurm.conf")}

    def start(self) -> None:
        """Return when all nodes are ready for jobs."""
        self._write_files()
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "address", "add", f"{self._network}.1/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")
        munge = self.folder / "munge"
        self._start(
            "munged",
            *("munged", "--foreground", "--force", f"--key-file={munge}/key", f"--socket={munge}/socket"),
            *(f"--pid-file={munge}/pid", f"--seed-file={munge}/seed", f"--log-file={munge}/log"),
        )
        _until((munge / "socket").exists, "munged does not start", self.folder / "munge/log")
        if self._accounts:
            self._start_accounts()
        self._start("slurmctld", "slurmctld", "-D")
        for name in self.names:
            self.start_node(name)
        self.wait_until_ready()

    def _start_accounts(self) -> None:
        """A database, the daemon that keeps accounts in it, and this cluster with root as its user."""
        data = self.folder / "database"
        data.mkdir()
        options = ("--no-defaults", f"--datadir={data}", "--user=root")
        subprocess.run(
            ["mariadbd", *options, "--bootstrap", "--skip-grant-tables"],
            input=f"create database mysql;\nuse mysql;\n{DATABASE_TABLES.read_text()}",
            text=True,
            capture_output=True,
            check=True,
        )
        self._start(
            "mariadbd",
            *("mariadbd", *options, "--skip-grant-tables", "--bind-address=127.0.0.1"),
            *(f"--port={self._database_port}", f"--socket={data}/socket", f"--pid-file={data}/pid"),
        )
        _until((data / "socket").exists, "mariadbd does not start", self.folder / "mariadbd.out")
        self._start("slurmdbd", "slurmdbd", "-D")
        _until(
            lambda: self.account("add", "cluster", "local") != "",
            "slurmdbd does not answer",
            self.folder / "slurmdbd.log",
        )
        self.account("add", "account", "students")
        self.account("add", "user", "root", "account=students")

    def start_node(self, name: str, *, powered: bool = False) -> None:
        """Start a node, the first time, after it crashed, or because Slurm has `powered` it up for a job."""
        number = self.names.index(name)
        script = NODE.format(
            name=name, folder=self.folder, address=f"{self._network}.{number + 10}", options="-b" if powered else ""
        )
        node = self._start(
            name,
            *("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-ec", script),
        )
        own = Path("/proc/self/ns/net").readlink()
        _until(lambda: Path(f"/proc/{node.pid}/ns/net").readlink() != own, f"{name} has no network of its own")
        end = f"{self._bridge}n{number}"
        _run("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", str(node.pid))
        _run("ip", "link", "set", end, "master", self._bridge, "up")

    def stop_controller(self) -> None:
        """End the controller, which saves its state; nodes and jobs go on without it."""
        controller = self._running.pop("slurmctld")
        controller.terminate()
        controller.wait()

    def start_controller(self) -> None:
        """Start the controller again, which knows its jobs."""
        self._start("slurmctld", "slurmctld", "-D")

    def crash_node(self, name: str) -> None:
        """Kill everything that runs on a node."""
        node = self._running.pop(name)
        node.kill()
        node.wait()

    def wait_until_ready(self) -> None:
        """Until every node waits for jobs."""
        _until(
            lambda: self.ask("sinfo", "-h", "-N", "-p", "cpu", "-o", "%T").split() == ["idle"] * len(self.names),
            "not all nodes are ready",
            self.folder / "slurmctld.log",
        )

    def ask(self, *command: str) -> str:
        """What a Slurm command prints; empty if it fails."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout

    def account(self, *command: str) -> str:
        """What sacctmgr prints, of a cluster that keeps accounts; empty if it fails."""
        return self.ask("sacctmgr", "--immediate", *command)

    def stop(self) -> None:
        """End every process, and remove every trace."""
        for name in [*self.names, "slurmctld", "slurmdbd", "mariadbd", "munged"]:
            if (process := self._running.pop(name, None)) is not None:
                process.kill()
                process.wait()
        # The nodes' ends go with their networks, but the kernel takes its time.
        for link in (*(f"{self._bridge}n{number}" for number in range(len(self.names))), self._bridge):
            subprocess.run(["ip", "link", "delete", link], capture_output=True)
        shutil.rmtree(self.folder)

    def _start(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        with open(self.folder / f"{name}.out", "ab") as printed:
            self._running[name] = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )
        return self._running[name]

    def _write_files(self) -> None:
        self.folder.chmod(0o755)
        for name in ("etc", "munge", "state", "spool", "dev", *(f"spool/{name}" for name in self.names)):
            (self.folder / name).mkdir()
        key = self.folder / "munge/key"
        key.touch(mode=0o400)
        key.write_bytes(os.urandom(1024))
        for number in range(GPUS):
            # Slurm wants a device file for each GPU; these are like /dev/null.
            os.mknod(self.folder / f"dev/nvidia{number}", 0o020666, os.makedev(1, 3))
        addresses = {HEAD: f"{self._network}.1"}
        lines = []
        for number, name in enumerate(self.names):
            addresses[name] = f"{self._network}.{number + 10}"
            lines.append(
                f"NodeName={name} NodeAddr={addresses[name]} CPUs={self._cpus} RealMemory={self._memory_mb} "
                f"Gres=gpu:a100:{GPUS} State=UNKNOWN"
            )
        (self.folder / "etc/slurm.conf").write_text(
            CONFIGURATION.format(
                head=HEAD,
                address=addresses[HEAD],
                port=self._port,
                folder=self.folder,
                accounting="slurmdbd" if self._accounts else "none",
                more=(
                    ACCOUNTING.format(head=addresses[HEAD], port=self._accounts_port, folder=self.folder)
                    if self._accounts
                    else ""
                )
                + self._more.format(folder=self.folder),
                nodes="\n".join(lines),
            )
        )
        daemon = self.folder / "etc/slurmdbd.conf"
        daemon.touch(mode=0o600)  # slurmdbd reads no other
        daemon.write_text(
            ACCOUNTING_DAEMON.format(
                head=HEAD,
                address=addresses[HEAD],
                port=self._accounts_port,
                folder=self.folder,
                database_port=self._database_port,
            )
        )
        (self.folder / "etc/gres.conf").write_text(
            f"Name=gpu Type=a100 File={self.folder}/dev/nvidia[0-{GPUS - 1}] Flags=nvidia_gpu_env\n"
        )
        hosts = {"localhost": "127.0.0.1", **addresses}
        (self.folder / "hosts").write_text("".join(f"{address} {name}\n" for name, address in hosts.items()))
        # Other sources of names would be waited for in vain.
        (self.folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")


@contextlib.contextmanager
def local_cluster(**options: Any) -> Iterator[LocalCluster]:
    """A cluster that is stopped whatever happens."""
    cluster = LocalCluster(**options)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def _until(reached: Callable[[], bool], failure: str, log: Path | None = None, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            raise AssertionError(failure + (f":\n{log.read_text()[-3000:]}" if log and log.exists() else ""))
        time.sleep(0.1)


def main() -> None:
    """Run until Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit())
    reason = why_not()
    if reason is not None:
        raise SystemExit(f"No cluster can be started here: {reason}")
    with local_cluster() as cluster:
        print(f"export SLURM_CONF={cluster.folder}/etc/slurm.conf", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
