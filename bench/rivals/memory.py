"""Peak resident memory of processes, as Linux counts it (VmHWM)."""

import threading
from pathlib import Path


def status(pid: int | str, key: str) -> int:
    """Bytes of a line of /proc/PID/status; 0 once the process has gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return 1024 * int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def forget_peak() -> None:
    """This process's peak begins anew: what it took to get ready, compilation say, counts no more than what is left of it."""
    Path("/proc/self/clear_refs").write_text("5")


def descendants(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(d for child in children for d in descendants(child))]


def called(pid: int, name: str) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == name
    except (FileNotFoundError, ProcessLookupError):
        return False


class Watch:
    """with Watch(pid, name) as watch: ...; watch.peaks: of every process of that name at or below pid, looked at now and then."""

    def __init__(self, pid: int, name: str, interval: float = 0.2):
        self.pid, self.name, self.interval = pid, name, interval
        self.peaks: dict[int, int] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self.over.wait(self.interval):
            for pid in descendants(self.pid):
                if called(pid, self.name):
                    self.peaks[pid] = max(self.peaks.get(pid, 0), status(pid, "VmHWM"))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
