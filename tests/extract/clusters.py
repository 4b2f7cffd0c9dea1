"""A dask scheduler and workers of our own, and clients that can be killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from extract.pipeline.cluster import Scheduler

DASK = [sys.executable, "-m", "dask"]
CLIENT = """
import json, sys
from threading import Event
from extract.pipeline.cluster import Scheduler, run_on
from extract.pipeline.options import Options
from extract.pipeline.progress import Watch
from extract.media.sampling import Sampling
scheduler, manifest, directory, size, fps, deadline = sys.argv[1:]
result = run_on(
    Scheduler(url=scheduler, insecure_tcp=scheduler.startswith("tcp:")), manifest, directory,
    visual=["mobilenetv2:untrained"],
    sampling=Sampling(fps=float(fps)), options=Options(
        clips_per_unit=int(size), workers=1, unit_deadline_seconds=float(deadline)
    ),
    watch=Watch(progress=lambda *report: print(*report[:3], file=sys.stderr, flush=True)),
)
print(json.dumps(result.to_dict()))
"""


class Cluster:
    """`with Cluster(folder) as cluster`: a scheduler at `cluster.url` and two workers."""

    def __init__(self, folder: Path, *, workers=2, threads=1, settings=(), tls=()):
        self.folder, self.count, self.threads = folder, workers, threads
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
            **dict(settings),
        }
        self.tls = list(tls)
        self.scheduler = None
        self.workers = []
        self.clients = []

    def __enter__(self):
        self.start_scheduler()
        for _ in range(self.count):
            self.start_worker()
        return self

    def __exit__(self, *_):
        for process in [*self.clients, *self.workers, self.scheduler]:
            if process.poll() is None:  # else its number may be another's by now
                kill_tree(process.pid)
            process.wait()
        for client in self.clients:
            client.stdout.close()
            client.stderr.close()

    def start_scheduler(self):
        file = self.folder / "scheduler.json"
        file.unlink(missing_ok=True)
        words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", *self.tls]
        self.scheduler = self._start("scheduler", *words, "--scheduler-file", str(file))
        limit = time.monotonic() + 60
        while not file.exists() or not file.read_text():
            assert self.scheduler.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.05)
        self.url = json.loads(file.read_text())["address"]
        self.line = Scheduler(url=self.url, insecure_tcp=not self.tls)

    def start_worker(self):
        words = ["--nthreads", str(self.threads), "--no-dashboard", "--host", "127.0.0.1"]
        folder = self.folder / f"w{len(self.workers)}-{time.time_ns()}"
        words += ["--local-directory", str(folder), *self.tls]
        self.workers.append(self._start("worker", self.url, *words))

    def client(self, manifest, directory, *, size=8, fps=1.0, deadline=900.0):
        """A client in a process of its own."""
        words = [self.url, str(manifest), str(directory), str(size), str(fps), str(deadline)]
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, *words], env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.clients.append(process)
        return process

    def _start(self, *words):
        with (self.folder / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen([*DASK, *words], env=self.environment, stdout=log, stderr=log)


def descendants(pid):
    """Processes below one, with the words they were started with."""
    parents, words = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            words[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    commands, left = {}, [pid]
    while left:
        parent = left.pop()
        below = [child for child, its in parents.items() if its == parent]
        commands |= {child: words.get(child, "") for child in below}
        left += below
    return commands


def kill_tree(pid):
    """SIGKILL, to the last of them."""
    for child in [pid, *descendants(pid)]:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
