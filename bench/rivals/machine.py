"""The machine and the versions that a measurement was taken with."""

import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from workload import ROOT

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")


def first_match(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1).strip() if found else "unknown"


def output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def revision() -> str:
    """Of the sources, if they are what the binary was built from."""
    if ROOT not in Path(os.environ["OFFRAMP_BINARY"]).resolve().parents:
        return "of unknown revision"
    return output("git", "-C", str(ROOT), "describe", "--always", "--dirty") or "of unknown revision"


def libraries() -> str:
    loaded = output("ldd", os.environ["OFFRAMP_BINARY"])
    names = [Path(path).resolve().name for path in re.findall(r"=> (\S*lib(?:dnnl|mpi|gomp)\S*)", loaded)]
    return ", ".join(names) or "unknown"


def describe() -> str:
    cpu, memory = Path("/proc/cpuinfo").read_text(), Path("/proc/meminfo").read_text()
    flags = set(first_match(r"^flags\s*:(.*)$", cpu).split())
    name, family, model = (first_match(rf"^{key}\s*:(.*)$", cpu) for key in ("model name", "cpu family", "model"))
    gib = int(first_match(r"^MemTotal:\s*(\d+)", memory)) / (1 << 20)
    load = os.getloadavg()[0]
    return "\n".join([
        f"CPU: {name}, family {family}, model {model}; {len(os.sched_getaffinity(0))} cores to use; {gib:.0f} GiB",
        f"Instructions: {' '.join(f for f in FLAGS if f in flags)}; none of: {' '.join(f for f in FLAGS if f not in flags)}",
        f"Linux {os.uname().release}, load {load:.1f} at the start" + (" (others are computing: do not trust the numbers)" * (load > 0.7)),
        f"Offramp {revision()}: {libraries()}",
        f"PyTorch {version('torch')}, numpy {version('numpy')}"])
