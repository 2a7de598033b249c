"""A release daemon on an embedded log in a folder of its own, watched from outside: for scripts that load it for long."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def build() -> str:
    if given := os.environ.get("UNDERCURRENT_BINARY"):
        return given
    command = ["cargo", "build", "--release", "--locked", "--message-format=json", "--bin", "undercurrent"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found = [json.loads(line).get("executable") for line in done.stdout.splitlines()]
    return next(path for path in reversed(found) if path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Daemon:
    def __init__(self, binary: str, folder: str, settings: list[str]):
        self.port, self.folder = free_port(), Path(folder)
        settings = [f"http.listen=127.0.0.1:{self.port}", *settings]
        arguments = [part for setting in settings for part in ("--set", setting)]
        self.log = open(Path(folder, "daemon.log"), "w")
        self.process = subprocess.Popen([binary, "run", *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=self.log)
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.ask_until_ready()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/x-ndjson"} if body else {}
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read()

    def ask_until_ready(self) -> None:
        for _ in range(600):
            try:
                if self.ask("GET", "/readyz")[0] == 200:
                    return
            except OSError:
                self.connection.close()
            if self.process.poll() is not None:
                sys.exit("the daemon ended at once")
            time.sleep(0.1)
        sys.exit("the daemon was never ready")

    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def peak_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def log_files(self) -> tuple[int, int]:
        """Files of the embedded log, and their bytes."""
        sizes = []
        for folder, _, names in os.walk(self.folder / ".undercurrent" / "log"):
            for name in names:
                try:
                    sizes.append(os.stat(os.path.join(folder, name)).st_size)
                except FileNotFoundError:
                    pass
        return len(sizes), sum(sizes)

    def over_partitions(self, field: str) -> int:
        return sum(partition[field] for partition in json.loads(self.ask("GET", "/v1/partitions")[1])["partitions"])

    def lag(self) -> int:
        return self.over_partitions("lag_records")

    def users(self) -> int:
        return self.over_partitions("user_count")

    def wait_until_committed(self, accepted: int, seconds: float) -> int:
        """Records committed once that is all of them, or when the time is over."""
        deadline = time.monotonic() + seconds
        while (committed := round(self.counted("undercurrent_stream_records_total"))) < accepted:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return committed

    def counted(self, name: str) -> float:
        page = self.ask("GET", "/metrics")[1].decode()
        lines = [line for line in page.splitlines() if line.startswith(name) and line[len(name)] in " {"]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def slope_per_hour(samples: list[tuple[float, float]]) -> float:
    """Least squares over (seconds, value)."""
    mean_x = sum(x for x, _ in samples) / len(samples)
    mean_y = sum(y for _, y in samples) / len(samples)
    above = sum((x - mean_x) * (y - mean_y) for x, y in samples)
    return 3600 * above / sum((x - mean_x) ** 2 for x, _ in samples)
