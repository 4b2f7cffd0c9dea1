"""Runs on a real dask scheduler with real workers, some of which are killed."""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import dask
import numpy as np
import pytest
from distributed.scheduler import KilledWorker

import store
from extract.media.sampling import Sampling
from extract.pipeline import cluster, cluster_calls, cluster_task, cluster_worker
from extract.pipeline.cluster import Scheduler, run_on
from extract.pipeline.options import Options
from extract.pipeline.progress import RunProgress, Watch
from extract.pipeline.result import Timings
from extract.pipeline.run import run
from store.cluster import check_url
from store.errors import ClusterError, InputError, MissingFile, WeightsError
from tests.extract import media_files as media
from tests.extract.clusters import Cluster, descendants, kill_tree

SPECS = {"visual": ["mobilenetv2:untrained"], "audio": ["yamnet:untrained"]}


def clips(folder, count, seconds=0.6):
    """A manifest of copies of a clip, the third without sound and the last one broken."""
    folder.mkdir(parents=True)
    with_sound = media.write(
        folder / "a.mp4", range(0, round(1000 * seconds), 40), sound=media.tone(seconds)
    )
    silent = media.write(folder / "b.mp4", range(0, round(1000 * seconds), 40))
    names = [f"{k:03}.mp4" for k in range(count)]
    for k, name in enumerate(names):
        (folder / name).hardlink_to(silent if k == 2 else with_sound)
    (folder / names[-1]).unlink()
    (folder / names[-1]).write_bytes(b"broken")
    (folder / "m.csv").write_text("path\n" + "\n".join(names) + "\n")
    return folder / "m.csv"


def contents(directory):
    """The status and rows of every clip of every feature."""
    fs = store.open(directory)
    rows_of_clip = {}
    for name in fs.features:
        feature = fs[name]
        ids = sorted(feature.clip_ids)
        rows, offsets = feature.read(ids)
        status = feature.status_of(ids).tolist()
        for k, clip_id in enumerate(ids):
            rows_of_clip[name, clip_id] = (status[k], rows[offsets[k] : offsets[k + 1]].tolist())
    return rows_of_clip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return clips(tmp_path_factory.mktemp("clips") / "c", 12)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster"), threads=2) as running:
        yield running


def test_a_cluster_stores_what_one_machine_stores(source, two, tmp_path):
    options = Options(clips_per_unit=4, device="cpu", workers=1)
    reports = []
    by_cluster = run_on(
        two.line, source, tmp_path / "there", **SPECS, options=options,
        watch=Watch(
            metrics=tmp_path / "metrics.jsonl", progress=lambda *words: reports.append(words)
        ),
    )  # fmt: skip
    by_process = run(source, tmp_path / "here", **SPECS, options=options)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert [f.counts for f in by_cluster.features] == [f.counts for f in by_process.features]
    assert [f.new for f in by_cluster.features] == [12, 12]
    assert by_cluster.timings.clips == 12
    assert by_cluster.timings.decode_cpu_seconds > 0
    assert by_cluster.timings.confinement.layers[0] == "rlimits"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sorted((line["unit"], line["modality"]) for line in enriched(lines, by_cluster)) == [
        (unit, modality) for unit in range(3) for modality in ("audio", "visual")
    ]
    assert all(line["worker"] for line in lines)
    assert sum("unit 3/3" in words[2] for words in reports) == 2
    before = sorted((tmp_path / "there").rglob("*"))
    again = run_on(two.line, source, tmp_path / "there", **SPECS, options=options)
    assert (again.timings.clips, [f.new for f in again.features]) == (0, [0, 0])
    assert sorted((tmp_path / "there").rglob("*")) == before
    kept = run_on(
        two.line, source, tmp_path / "there", **SPECS,
        options=Options(clips_per_unit=4, device="cpu", workers=1, retry=("unreadable",)),
    )  # fmt: skip
    assert [f.new for f in kept.features] == [1, 1]


def enriched(lines, result):
    modality = {feature.feature: feature.modality for feature in result.features}
    return [line | {"modality": modality[line["feature"]]} for line in lines]


def test_what_went_wrong_on_a_worker_is_said_here(source, two, tmp_path):
    with pytest.raises(MissingFile, match=r"none\.safetensors"):
        run_on(two.line, source, tmp_path / "s", visual=["mobilenetv2:weights=none.safetensors"])
    assert not (tmp_path / "s").exists()
    with pytest.raises(WeightsError, match="needs weights=FILE"):
        run_on(two.line, source, tmp_path / "s", visual=["simclrv2"])


def test_a_worker_is_killed_and_its_unit_is_done_by_another(source, two, tmp_path):
    client = two.client(source, tmp_path / "s", size=2, fps=8.0)
    records = tmp_path / "s" / "commits"
    until(lambda: len(list(records.glob("*/*.json"))) > 0, client)
    (worker, *_) = [pid for pid, words in descendants(two.workers[0].pid).items()
                    if "multiprocessing" in words and "spawn_main" in words]  # fmt: skip
    os.kill(worker, signal.SIGKILL)
    out, errors = client.communicate(timeout=120)
    assert client.returncode == 0, errors
    answer = json.loads(out)
    # What the dead one's two threads had committed without being able to say so is not done again.
    assert answer["features"][0]["new"] in (8, 10, 12)
    assert answer["features"][0]["counts"] == {"ok": 11, "unreadable": 1}
    assert len(store.open(tmp_path / "s")["mobilenetv2"].parts()) == 6


def until(condition, process):
    limit = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_work_goes_only_over_lines_that_nobody_reads():
    for url in ("tls://127.0.0.1:8786", "tls://localhost:1", "tls://[::1]:1", "tls://far:8786"):
        check_url(url, insecure_tcp=False)
    for url in ("tcp://127.0.0.1:8786", "tcp://localhost:1", "tcp://[::1]:1", "tcp://far:8786"):
        with pytest.raises(ClusterError, match="`insecure_tcp`"):
            check_url(url, insecure_tcp=False)
        check_url(url, insecure_tcp=True)
    for url in ("127.0.0.1:8786", "http://127.0.0.1:1", "tcp://127.0.0.1", "inproc://1"):
        with pytest.raises(InputError, match="is no scheduler"):
            check_url(url, insecure_tcp=True)


def test_nobody_is_there(source, tmp_path, monkeypatch):
    monkeypatch.setattr("store.cluster.CONNECT_SECONDS", 1.0)
    with pytest.raises(ClusterError, match="tls:// needs certificates"):
        run_on("tls://127.0.0.1:1", source, tmp_path / "s", **SPECS)
    with pytest.raises(ClusterError, match="no scheduler answers"):
        run_on(
            Scheduler(url="tcp://127.0.0.1:1", insecure_tcp=True), source, tmp_path / "s", **SPECS
        )
    monkeypatch.setattr(cluster, "WAIT_SECONDS", 0.2)
    with Cluster(tmp_path, workers=0) as empty, pytest.raises(ClusterError, match="dask worker"):
        run_on(empty.line, source, tmp_path / "s", **SPECS)
    assert not (tmp_path / "s").exists()


def test_other_code_is_refused(monkeypatch):
    mine = cluster_worker.versions()
    cluster_worker._check(mine)
    names = dict(mine)
    assert {"python", "torch", "zarr", "microshot code"} <= set(names)
    for name in names:
        changed = tuple((n, "0.0" if n == name else v) for n, v in mine)
        with pytest.raises(ClusterError, match=f"{name} .*this client 0.0"):
            cluster_worker._check(changed)


def test_another_code_of_a_worker_is_noticed_before_anything_is_done(
    source, two, tmp_path, monkeypatch
):
    version = cluster_worker.version
    monkeypatch.setattr(
        cluster_worker, "version", lambda name: "1.0" if name == "numpy" else version(name)
    )
    with pytest.raises(ClusterError, match=r"numpy .*, this client 1\.0"):
        run_on(two.line, source, tmp_path / "s", **SPECS)
    assert not (tmp_path / "s").exists()


class Dying:
    """A client whose workers die of the second unit."""

    status = "running"

    def __init__(self):
        self.sent = []

    def nthreads(self):
        return {"one": 1}

    def map(self, function, jobs, *, key, pure):
        return [self.submit(job, name) for job, name in zip(jobs, key, strict=True)]

    def submit(self, job, key):
        self.sent.append(job.number)
        return Gone(key, job.number)

    def gather(self, futures):
        if len(futures) % 2:
            raise OSError("a worker died with a result")  # then they are asked one by one
        return [future.result() for future in futures]

    def restart_workers(self, workers, **_):
        raise AssertionError("nobody hangs")


class Gone:
    def __init__(self, key, number):
        self.key, self.number = key, number
        self.status = "error" if number == 1 else "finished"

    def add_done_callback(self, call):
        call(self)

    def exception(self):
        return KilledWorker("unit", None, 0)

    def result(self):
        timings = {"clips": 1, "decode_cpu_seconds": 0.5, "waiting": 0.0, "encoding": 0.1,
                 "writing": 0.0, "device": 0.0, "decoder_bytes": 7,
                 "confinement": None}  # fmt: skip
        return {"unit": self.number, "worker": "w", "timings": timings, "commits": [],
                "failures": {}, "outputs": {}, "already_done": 0}  # fmt: skip


def unit_tasks(count):
    return [
        cluster_task.UnitTask(number=k, run="r", stretches=(), checksum=0, retries=())
        for k in range(count)
    ]


def test_a_unit_that_kills_its_workers_is_given_up():
    client, progress = Dying(), RunProgress(timings=Timings(workers=1), clips=4, units=4)
    cluster_run = cluster._ClusterRun(client=client, tasks=iter(unit_tasks(4)), progress=progress)
    cluster_run.work()
    assert cluster_run.lost == [1]
    assert sorted(client.sent) == [0, 1, 1, 1, 2, 3]
    assert progress.timings.clips == 3


class Hanging(Dying):
    """A client whose workers hang in the second unit; what was lost with one is done by the next,
    which hangs as well, for so many times."""

    def __init__(self, times):
        super().__init__()
        self.times, self.restarted, self.run, self.waiting = times, [], None, []

    def nthreads(self):
        return {"tcp://w": 1}

    def submit(self, job, key):
        self.run.hear((0.0, {"unit": job.number, "worker": "tcp://w"}))
        self.sent.append(job.number)
        gone = Gone(key, job.number)
        gone.status = "finished"
        if job.number == 1:
            gone.add_done_callback = self.waiting.append
        return gone

    def restart_workers(self, workers, **_):
        self.restarted += workers
        if len(self.restarted) < self.times or self.times > 9:
            self.run.hear((0.0, {"unit": 1, "worker": "tcp://w"}))
            return
        gone = Gone(next(iter(self.run._open)), 1)
        gone.status = "finished"
        self.waiting.pop()(gone)


@pytest.mark.parametrize(("times", "lost"), [(1, []), (2, []), (99, [1])])
def test_a_worker_that_hangs_is_started_anew_and_its_unit_given_up_in_the_end(
    monkeypatch, times, lost
):
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.01)
    client, progress = Hanging(times), RunProgress(timings=Timings(workers=1), clips=4, units=4)
    cluster_run = cluster._ClusterRun(
        client=client, tasks=iter(unit_tasks(4)), progress=progress, lease_seconds=0.05
    )
    client.run = cluster_run
    cluster_run.work()
    assert cluster_run.lost == lost
    assert client.restarted == ["tcp://w"] * min(times, cluster.TRIES)
    assert cluster_run.hung == client.restarted
    assert progress.timings.clips == 4 - len(lost)


class Waiting(Hanging):
    """Unit 1 began at a worker, and waits at another one once that worker is gone or hung."""

    def __init__(self, there, goes):
        super().__init__(1)
        self.there, self.goes, self.looks = there, goes, 0

    def nthreads(self):
        self.looks += bool(self.waiting)
        if self.looks == 3:  # by now it has waited for longer than a lease lasts
            self.finish()
        return self.there

    def restart_workers(self, workers, **_):
        self.restarted += workers
        if self.goes:
            raise KeyError(workers[0])
        self.run.hear((0.0, {"unit": 1, "worker": "tcp://other"}))
        self.finish()

    def finish(self):
        gone = Gone(next(iter(self.run._open)), 1)
        gone.status = "finished"
        self.waiting.pop()(gone)


@pytest.mark.parametrize(
    ("there", "goes", "restarted"),
    [({"tcp://other": 1}, False, []), ({"tcp://w": 1, "tcp://other": 1}, True, ["tcp://w"])],
)
def test_a_unit_that_waits_after_its_worker_died_is_not_held_against_anybody(
    monkeypatch, there, goes, restarted
):
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(cluster, "COUNT_SECONDS", 0.1)
    client = Waiting(there, goes)
    progress = RunProgress(timings=Timings(workers=1), clips=4, units=4)
    client.run = cluster._ClusterRun(
        client=client, tasks=iter(unit_tasks(4)), progress=progress, lease_seconds=0.05
    )
    client.run.work()
    assert client.run.lost == []
    assert client.restarted == restarted
    assert client.run._leases == {}
    assert progress.timings.clips == 4


def test_what_else_a_hung_worker_had_is_not_late_once_it_was_started_anew():
    client = Hanging(99)
    client.restart_workers = lambda workers, **_: client.restarted.extend(workers)
    progress = RunProgress(timings=Timings(workers=1), clips=4, units=4)
    run = cluster._ClusterRun(client=client, tasks=iter(()), progress=progress, lease_seconds=9.0)
    run._open = {str(task.number): task for task in unit_tasks(2)}
    run._leases = {0: cluster._Lease("tcp://w", -99.0), 1: cluster._Lease("tcp://w", 1e12)}
    run._check_leases()
    assert client.restarted == ["tcp://w"]
    assert run._leases == {}
    assert run._tries == {0: 1}


def test_rows_travel_as_stretches():
    unit = [(3, (0, 1)), (4, (0, 1)), (5, (1,)), (7, (1,)), (8, (1,))]
    stretches = cluster_task.stretches_of(unit)
    assert stretches == ((3, 5, (0, 1)), (5, 6, (1,)), (7, 9, (1,)))
    task = cluster_task.UnitTask(number=0, run="r", stretches=stretches, checksum=0, retries=(0, 2))
    assert task.rows.tolist() == [row for row, _ in unit]
    assert [mask for _, mask in task.planned[0]] == [mask for _, mask in unit]
    assert task.planned.retries.tolist() == [[0, 2]]


def test_another_store_under_the_same_path_is_noticed(source, two, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_worker, "checksum", lambda table: 1)
    with pytest.raises(ClusterError, match=r"finds other clips in .* than this client"):
        run_on(two.line, source, tmp_path / "s", **SPECS)


@pytest.mark.soak  # the deadline must be long enough for networks to be loaded on a busy machine
def test_a_worker_that_stands_still_is_started_anew(source, tmp_path):
    """SIGSTOP: its process is there and does nothing."""
    with Cluster(tmp_path, workers=1) as running:
        client = running.client(source, tmp_path / "s", size=2, fps=8.0, deadline=15.0)
        records = tmp_path / "s" / "commits"
        until(lambda: len(list(records.glob("*/*.json"))) > 0, client)
        (worker, *_) = [pid for pid, words in descendants(running.workers[0].pid).items()
                        if "multiprocessing" in words and "spawn_main" in words]  # fmt: skip
        os.kill(worker, signal.SIGSTOP)
        out, errors = client.communicate(timeout=120)
    assert client.returncode == 0, errors
    assert json.loads(out)["features"][0]["counts"] == {"ok": 11, "unreadable": 1}


def test_over_tls(source, tmp_path):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    both = authority.issue_cert("127.0.0.1", "localhost")
    both.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    ca, cert = str(tmp_path / "ca.pem"), str(tmp_path / "both.pem")
    base = "DASK_DISTRIBUTED__COMM__TLS__"
    settings = {f"{base}CA_FILE": ca} | {
        f"{base}{role}__{what}": cert
        for role in ("CLIENT", "WORKER", "SCHEDULER")
        for what in ("CERT", "KEY")
    }
    with Cluster(tmp_path, workers=1, settings=settings, tls=["--protocol", "tls"]) as secure:
        assert secure.url.startswith("tls://")
        stranger = trustme.CA().issue_cert("127.0.0.1")
        stranger.private_key_and_cert_chain_pem.write_to_path(tmp_path / "stranger.pem")
        options = Options(clips_per_unit=12, device="cpu", workers=1)
        with (
            client_shows(ca, str(tmp_path / "stranger.pem")),
            pytest.raises(ClusterError, match="no scheduler answers at tls://"),
        ):
            run_on(secure.line, source, tmp_path / "refused", **SPECS, options=options)
        assert not (tmp_path / "refused").exists()
        with client_shows(ca, cert):
            done = run_on(secure.line, source, tmp_path / "s", **SPECS, options=options)
        assert done.features[0].new == 12


def client_shows(ca, pem):
    """Whom this process trusts as a client, and how it proves who it is."""
    return dask.config.set(
        {
            "distributed.comm.tls.ca-file": ca, "distributed.comm.tls.client.cert": pem,
            "distributed.comm.tls.client.key": pem, "distributed.comm.timeouts.connect": "5s",
        }
    )  # fmt: skip


# ── kills ────────────────────────────────────────────────────────────────────────────────────────

KILLS = 20
CLIPS, SIZE = 400, 8


def records(directory):
    """Every commit record, byte for byte, and when it was written."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.glob("commits/*/*.json")
    }


def victim_of(kind, running, client, rng):
    """Somebody to kill; None if nobody of that kind is there now."""
    if kind == "client":
        return client.pid
    if kind == "scheduler":
        return running.scheduler.pid
    below = [item for nanny in running.workers for item in descendants(nanny.pid).items()]
    word = {"worker": "spawn_main", "decode child": "extract.processes.child"}[kind]
    pids = [pid for pid, words in below if word in words]
    return rng.choice(pids) if pids else None


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["decode child", "worker", "scheduler", "client"])
def test_killed_at_random(kind, tmp_path):
    """Every clip once, with the rows of a run that nobody disturbed, and no record ever changes."""
    rng = random.Random(kind)
    source = clips(tmp_path / "c", CLIPS, seconds=0.4)
    run(
        source, tmp_path / "quiet", visual=["mobilenetv2:untrained"],
        sampling=Sampling(fps=8.0), options=Options(clips_per_unit=SIZE, device="cpu"),
    )  # fmt: skip
    wanted = contents(tmp_path / "quiet")
    kills = runs = starts = 0
    while kills < KILLS:
        runs += 1
        directory = tmp_path / f"s{runs}"
        known = {}
        with Cluster(tmp_path) as running:
            client = running.client(source, directory, size=SIZE, fps=8.0)
            starts += 1
            while True:
                time.sleep(rng.uniform(0.3, 2.5))
                now = records(directory)
                assert known.items() <= now.items(), "a record went or changed"
                known = now
                if client.poll() == 0:
                    break
                if client.poll() is not None:  # the scheduler went: it said so in one line
                    assert "ClusterError" in client.communicate()[1], kind
                    kill_tree(running.scheduler.pid)
                    running.scheduler.wait()
                    for nanny in running.workers:
                        kill_tree(nanny.pid)
                        nanny.wait()
                    running.workers.clear()
                    running.start_scheduler()
                    running.start_worker()
                    running.start_worker()
                    client = running.client(source, directory, size=SIZE, fps=8.0)
                    starts += 1
                    continue
                if kills < KILLS and known and (pid := victim_of(kind, running, client, rng)):
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:  # it was through with its work just then
                        continue
                    kills += 1
                    if kind == "client":
                        client.communicate()
                        client = running.client(source, directory, size=SIZE, fps=8.0)
                        starts += 1
            client.communicate()
        values = contents(directory)
        assert values.keys() == wanted.keys()
        assert {key: values[key] for key in values if values[key] != wanted[key]} == {}
        feature = store.open(directory)["mobilenetv2"]
        assert len(feature.parts()) == CLIPS // SIZE
    print(
        f"{kind}: {kills} kills in {runs} runs of {CLIPS} clips, {starts} clients: every clip once"
    )


@pytest.mark.soak
def test_two_coordinators(tmp_path):
    """Two clients of two clusters, and a run of this machine, fill one store."""
    source = clips(tmp_path / "c", CLIPS, seconds=0.4)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with Cluster(tmp_path / "one", workers=1) as one, Cluster(tmp_path / "two", workers=1) as two:
        clients = [c.client(source, tmp_path / "s", size=SIZE, fps=8.0) for c in (one, two)]
        words = ["run", str(source), "--store", str(tmp_path / "s"), "--fps", "8"]
        local = subprocess.Popen(
            [sys.executable, "-c", "import cli; cli.extract_main()", *words,
             "--visual", "mobilenetv2:untrained", "--json"],
            env=one.environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        answers = [json.loads(process.communicate(timeout=600)[0]) for process in clients]
        answers.append(json.loads(local.communicate(timeout=600)[0]))
        for process in (*clients, local):
            assert process.returncode in (0, 1), process.args  # the broken clip is a finding
    feature = store.open(tmp_path / "s")["mobilenetv2"]
    assert len(feature.clip_ids) == len(set(feature.clip_ids)) == CLIPS
    rows, _ = feature.read(sorted(feature.clip_ids))
    run(
        source, tmp_path / "quiet", visual=["mobilenetv2:untrained"],
        sampling=Sampling(fps=8.0), options=Options(clips_per_unit=SIZE, device="cpu"),
    )  # fmt: skip
    quiet = store.open(tmp_path / "quiet")["mobilenetv2"]
    np.testing.assert_allclose(
        rows.astype(float), quiet.read(sorted(quiet.clip_ids))[0].astype(float), atol=2e-3
    )
    print("new by each:", [answer["features"][0]["new"] for answer in answers])


def test_what_a_scheduler_unpacks_needs_no_networks():
    task = unit_tasks(1)[0]
    settings = cluster_task.Settings(
        visual=(), audio=(), sampling=Sampling(fps=1.0), options=Options()
    )
    sent = pickle.dumps((cluster_calls.work, task, cluster_calls.prepared, settings))
    code = (
        "import pickle, sys; pickle.load(sys.stdin.buffer);"
        "sys.exit(bool({'torch', 'av', 'zarr'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=sent, check=False)
    assert done.returncode == 0
