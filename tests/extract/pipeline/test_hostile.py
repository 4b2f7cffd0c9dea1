"""Files made to break decoders, through the real `extract run`: it ends, and only they suffer."""

import http.server
import json
import os
import random
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import store
from store import Status
from tests.extract import media_files as media
from tests.extract.fakes import Windows, quick
from tests.extract.pipeline.test_run import write_manifest
from tests.extract.processes.test_pool import children

EVERY_40_MS = range(0, 800, 40)
CONTAINERS = {
    "a.mp4": {"muxer": {"movflags": "faststart"}},
    "b.mov": {},
    "c.mkv": {},
    "d.avi": {"codec": "mpeg4", "audio_codec": "mp2"},
    "e.ts": {},
    "f.flv": {},
    "g.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "h.mp3": {"audio_codec": "mp3"},
    "i.wav": {"audio_codec": "pcm_s16le"},
    "j.ogg": {"audio_codec": "libopus", "rate": 48_000},
    "k.gif": {"codec": "gif"},
}
PARENT_BYTES, CHILD_BYTES = 3 << 30, 3 << 30


def originals(folder):
    """One small file of each container."""
    made = []
    for k, (name, options) in enumerate(CONTAINERS.items()):
        silent, blind = name.endswith("gif"), name[0] in "hij"
        rate = options.get("rate", 44_100)
        times = () if blind else EVERY_40_MS
        made.append(
            media.write(
                folder / name, times, pictures=media.noisy(20, seed=k), gop=8,
                sound=None if silent else media.tone(0.8, rate), **options,
            )
        )  # fmt: skip
    return made


def mutated(data, other, chance):
    """One of eight ways to break a file."""
    data = bytearray(data)
    at = chance.randrange(len(data))
    match chance.randrange(8):
        case 0:
            return data[:at]
        case 1 | 2:
            for _ in range(max(1, int(len(data) * 10 ** chance.uniform(-4, -2)))):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case 3:
            data[at:] = other[chance.randrange(len(other)) :]
        case 4:
            length = chance.randrange(1, 4096)
            data[at : at + length] = bytes(length)
        case 5:
            data[at:at] = data[: chance.randrange(len(data))]
        case 6:
            _make_huge(data, chance)
        case 7:
            head = min(len(data) - 4, chance.randrange(512))  # sizes and counts live there
            data[head : head + 4] = struct.pack(">I", chance.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF]))
    return data


def _make_huge(data, chance):
    """Frames of 65,535 x 65,535, hours of sound, tables of four billion entries."""
    for name, skip, value in chance.sample(
        [
            (b"tkhd", 80, struct.pack(">II", 0xFFFF << 16, 0xFFFF << 16)),
            (b"avc1", 28, struct.pack(">HH", 65_535, 65_535)),
            (b"mvhd", 20, struct.pack(">I", 0xFFFFFFFF)),
            (b"mdhd", 20, struct.pack(">I", 0xFFFFFFFF)),
            (b"stsz", 12, struct.pack(">I", 0xFFFFFFFF)),
            (b"stts", 8, struct.pack(">I", 0xFFFFFFFF)),
            (b"stco", 8, struct.pack(">I", 0x7FFFFFFF)),
            (b"strf", 8, struct.pack("<II", 100_000, 100_000)),
            (b"data", 4, struct.pack("<I", 0xFFFFFFF0)),
            (b"\xb0\x81", 2, b"\xff"),
        ],
        4,
    ):
        if (at := data.find(name)) >= 0:
            data[at + skip : at + skip + len(value)] = value


def field(folder, count, seed=0):
    """The manifest of whole files, then `count` broken ones with copies of whole ones among them;
    and the copies, each with what it is a copy of.
    """
    chance = random.Random(seed)
    sources = originals(folder)
    contents = [path.read_bytes() for path in sources]
    paths, copies = [path.name for path in sources], {}
    for k in range(count):
        if k % 6 == 0:
            which = k // 6 % len(sources)
            name = f"ok{k:05}-{sources[which].name}"
            (folder / name).write_bytes(contents[which])
            copies[name] = sources[which].name
            paths.append(name)
        which = chance.randrange(len(sources))
        suffix = chance.choice(sources).suffix if chance.random() < 0.1 else sources[which].suffix
        name = f"bad{k:05}{suffix}"
        (folder / name).write_bytes(mutated(contents[which], chance.choice(contents), chance))
        paths.append(name)
    return write_manifest(folder, paths), copies


def extract(manifest, directory, *options):
    """`extract run`, and the most memory it and its children were seen to hold."""
    command = [
        sys.executable, "-c", "import cli; cli.extract_main()", "run", str(manifest),
        "--store", str(directory), "--visual", "mobilenetv2:untrained", "--frames", "2",
        "--audio", "yamnet:untrained", "--workers", "2", "--json", *options,
    ]  # fmt: skip
    with (
        (directory.parent / "answer").open("w+") as out,
        subprocess.Popen(command, stdout=out) as job,
    ):
        parent, child = 0, 0
        while job.poll() is None:
            parent = max(parent, resident_bytes(job.pid))
            child = max([child, *(resident_bytes(pid) for pid in offspring(job.pid))])
            time.sleep(0.05)
        out.seek(0)
        return job.returncode, json.loads(out.read()), parent, child


def offspring(pid):
    try:
        tasks = [t / "children" for t in Path(f"/proc/{pid}/task").iterdir()]
        return [int(child) for task in tasks for child in task.read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def resident_bytes(pid):
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def survived(tmp_path, count, seed):
    """Run over a field of broken files; what must hold of it, and the counts."""
    (tmp_path / "m").mkdir()
    manifest, copies = field(tmp_path / "m", count, seed)
    before = children()
    options = ("--deadline-seconds", "20", "--max-failures", "1")
    code, answer, parent, child = extract(manifest, tmp_path / "s", *options)
    assert code == 1
    assert children() <= before
    assert parent < PARENT_BYTES
    assert child < CHILD_BYTES
    fs = store.open(tmp_path / "s")
    for report in answer["features"]:
        feature = fs[report["feature"]]
        assert sum(report["counts"].values()) == count + len(copies) + len(CONTAINERS)
        amid, apart = list(copies), list(copies.values())
        assert set(feature.status_of(apart).tolist()) <= {Status.OK, Status.ABSENT}
        np.testing.assert_array_equal(feature.status_of(amid), feature.status_of(apart))
        ok = feature.status_of(amid) == Status.OK
        assert ok.mean() >= 0.6
        ours, theirs = (
            feature.read([name for name, fine in zip(names, ok, strict=True) if fine])
            for names in (amid, apart)
        )
        np.testing.assert_array_equal(ours[1], theirs[1])
        np.testing.assert_allclose(ours[0], theirs[0], atol=2e-3)
    return [report["counts"] for report in answer["features"]], parent, child


def test_broken_files_harm_nobody_else(tmp_path):
    counts, _, _ = survived(tmp_path, 66, seed=1)
    assert {"ok", "partial", "unreadable"} <= set(counts[0])


@pytest.mark.soak
def test_two_thousand_broken_files(tmp_path):
    counts, parent, child = survived(tmp_path, 2000, seed=2)
    print(*counts, f"parent {parent >> 20} MiB, largest child {child >> 20} MiB", sep="\n")


@pytest.fixture
def server():
    """Counts who knocks."""
    knocks = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            knocks.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/canary.ts", knocks
        httpd.shutdown()
        thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="the watch is the Linux kernel's")
def test_playlists_called_mp4_read_nothing(tmp_path, server):
    """The canary is a good clip, and a watch on it tells whether anybody opened it."""
    url, knocks = server
    (tmp_path / "out").mkdir()
    canary = media.write(tmp_path / "out" / "canary.ts", EVERY_40_MS, sound=media.tone(0.8))
    folder = tmp_path / "m"
    folder.mkdir()
    texts = []
    for name in (canary, f"file:{canary}", "../out/canary.ts", url):
        texts += [
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{name}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile '{name}'\n",
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
            f"<AdaptationSet><Representation><BaseURL>{name}</BaseURL></Representation>"
            "</AdaptationSet></Period></MPD>",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\n"
            f"m=video 9 RTP/AVP 96\na={name}\n",
            f"[playlist]\nFile1={name}\nNumberOfEntries=1\n",
        ]
    for k, text in enumerate(texts):
        (folder / f"{k}{('.mp4', '.mkv', '.m3u8')[k % 3]}").write_text(text)
    names = sorted(path.name for path in folder.iterdir())
    (folder / "linked.mp4").symlink_to(canary)
    manifest = write_manifest(folder, [*names, "linked.mp4"])
    with Opens(canary) as opens:
        result = quick(manifest, tmp_path / "s", audio=[Windows()])
        assert opens.seen() == 0
        canary.read_bytes()
        assert opens.seen() == 1, "the watch sees nothing"
    assert knocks == []
    for report in result.features:
        assert set(report.counts) <= {"refused", "unreadable"}
        assert report.counts["refused"] >= 9


class Opens:
    """How often a file was opened: the kernel's own count."""

    def __init__(self, path):
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        self.file = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert libc.inotify_add_watch(self.file, os.fsencode(path), 0x20) >= 0  # IN_OPEN

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.file)

    def seen(self):
        try:
            return len(os.read(self.file, 1 << 16)) // 16
        except BlockingIOError:
            return 0
