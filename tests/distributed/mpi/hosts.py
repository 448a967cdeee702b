"""Hosts of a network of their own, on this machine: namespaces that a bridge joins, each with an address and a name."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

NETWORK = "10.77.0"

# What a launcher has in the place of ssh: the host's address, then a command.
AGENT = """#!/bin/sh
name={prefix}${{1##*.}}
shift
exec ip netns exec "$name" unshare --uts sh -c "hostname $name; $*"
"""


class Hosts:
    """Made when it is entered, removed when it is left. `fault` says why there can be none, or is empty."""

    def __init__(self, count: int) -> None:
        self.count, self.prefix = count, f"tapecache{os.getpid()}-"
        self.addresses = [f"{NETWORK}.{i}" for i in range(1, count + 1)]
        self.fault = self.find_fault()

    def find_fault(self) -> str:
        if os.geteuid() != 0:
            return "only root can make hosts of a network"
        missing = [tool for tool in ("ip", "unshare") if not shutil.which(tool)]
        if missing:
            return f"there is no {missing[0]}"
        made = subprocess.run(["ip", "netns", "add", f"{self.prefix}try"], capture_output=True, text=True)
        subprocess.run(["ip", "netns", "del", f"{self.prefix}try"], capture_output=True)
        return made.stderr.strip()

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def __enter__(self) -> "Hosts":
        hub = f"{self.prefix}0"
        self.folder = tempfile.TemporaryDirectory()
        self.agent = Path(self.folder.name, "agent")
        self.agent.write_text(AGENT.format(prefix=self.prefix))
        self.agent.chmod(0o755)
        self.ip("netns", "add", hub)
        self.ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        self.ip("-n", hub, "link", "set", "bridge", "up")
        for i, address in enumerate(self.addresses, 1):
            host = f"{self.prefix}{i}"
            self.ip("netns", "add", host)
            self.ip("-n", host, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{i}", "netns", hub)
            self.ip("-n", hub, "link", "set", f"port{i}", "master", "bridge", "up")
            self.ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
            self.ip("-n", host, "link", "set", "eth0", "up")
            self.ip("-n", host, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_) -> None:
        for i in range(self.count + 1):
            subprocess.run(["ip", "netns", "del", f"{self.prefix}{i}"], capture_output=True)
        self.folder.cleanup()

    def command(self, launcher: str) -> "list[str]":
        """Of Open MPI: a process on each host, started from the first."""
        settings = {"plm_rsh_agent": str(self.agent), "pml": "ob1", "btl": "self,tcp", "orte_keep_fqdn_hostnames": "1",
                    "oob_tcp_if_include": f"{NETWORK}.0/24", "btl_tcp_if_include": f"{NETWORK}.0/24"}
        words = [launcher, "--allow-run-as-root", "--bind-to", "none",
                 *(word for name, value in settings.items() for word in ("--mca", name, value)),
                 "--host", ",".join(f"{address}:1" for address in self.addresses), "-n", str(self.count)]
        return [str(self.agent), self.addresses[0], "exec", *words]
