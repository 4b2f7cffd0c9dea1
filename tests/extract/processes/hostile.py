"""What a decode process might do or say once a file has taken it over; for children.

Every deed succeeds in a process that is not confined.
"""

import ctypes
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from extract.processes import child, transport, wire

libc = ctypes.CDLL(None, use_errno=True)


def must(answer):
    """The answer of a C function, unless it is an error's."""
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def read_outside(place):
    return (place / "secret").read_text()


def read_through_a_descriptor(place):
    """A path that stands for a file which the process may only name."""
    file = os.open(place / "secret", os.O_PATH)
    return Path(f"/proc/self/fd/{file}").read_text()


def list_outside(place):
    return len(list(Path(place).iterdir()))


def write(place):
    (place / "new").write_text("x")


def write_in_media(place):
    (place.parent / "media" / "new").write_text("x")


def append(place):
    with (place / "secret").open("a") as file:
        file.write("x")


def truncate(place):
    os.truncate(place / "secret", 0)


def remove(place):
    (place / "secret").unlink()


def rename(place):
    (place / "secret").rename(place / "other")
    (place / "other").rename(place / "secret")


def link(place):
    (place / "link").symlink_to("secret")


def make_folder(place):
    (place / "folder").mkdir()


def change_mode(place):
    (place / "secret").chmod(0o777)


def change_times(place):
    os.utime(place / "secret", (0, 0))


def make_socket(place):
    socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()


def connect(place):
    with socket.create_connection(("127.0.0.1", int((place / "port").read_text())), 5):
        pass


def connect_unix(place):
    with socket.socket(socket.AF_UNIX) as knocking:
        knocking.connect(str(place / "socket"))


def make_pair(place):
    [end.close() for end in socket.socketpair()]


def run_program(place):
    subprocess.run([sys.executable, "-c", ""], check=True)


def exec_program(place):
    os.execv(sys.executable, [sys.executable, "-c", "import os; os._exit(9)"])


def fork(place):
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


def trace(place):
    victim = int((place / "victim").read_text())
    must(libc.ptrace(0x4206, ctypes.c_long(victim), None, None))  # PTRACE_SEIZE


def read_parents_memory_file(place):
    Path(f"/proc/{os.getppid()}/mem").open("rb").close()


def read_parents_environment(place):
    return Path(f"/proc/{os.getppid()}/environ").read_bytes()


class Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def read_parents_memory(place):
    """Of the address that the test wrote down."""
    at, length = map(int, (place / "address").read_text().split())
    held = ctypes.create_string_buffer(length)
    ours, theirs = Vector(ctypes.addressof(held), length), Vector(at, length)
    vectors = (ctypes.byref(ours), ctypes.c_ulong(1), ctypes.byref(theirs), ctypes.c_ulong(1))
    must(libc.process_vm_readv(os.getppid(), *vectors, ctypes.c_ulong(0)))
    assert held.raw == b"canary"


def signal_parent(place):
    os.kill(os.getppid(), 0)


def signal_parents_thread(place):
    must(libc.tgkill(os.getppid(), os.getppid(), 0))


def signal_group(place):
    os.kill(0, signal.SIGCONT)


def kill(place):
    os.kill(int((place / "mortal").read_text()), signal.SIGKILL)


def open_parents_pid(place):
    os.close(os.pidfd_open(os.getppid()))


def limit_parent(place):
    """To what it has."""
    resource.prlimit(os.getppid(), resource.RLIMIT_NICE)


def slow_parent_down(place):
    os.setpriority(os.PRIO_PROCESS, os.getppid(), os.getpriority(os.PRIO_PROCESS, os.getppid()))


def raise_limits(place):
    """For the super-user, who may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard * 2))


def open_many_files(place):
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
    for file in files:
        os.close(file)


def outlive_parent(place):
    must(libc.prctl(1, 0, 0, 0, 0))


def make_memory_file(place):
    os.close(os.memfd_create("more"))


def share_memory(place):
    segment = must(libc.shmget(0, ctypes.c_size_t(4096), 0o1600))
    libc.shmctl(segment, 0, None)


def watch_folder(place):
    file = must(libc.inotify_init1(0))
    os.close(file)


def make_ring(place):
    os.close(must(libc.syscall(ctypes.c_long(425), 1, ctypes.create_string_buffer(120))))


def change_user(place):
    """To the one it is."""
    os.setresuid(os.getuid(), os.getuid(), os.getuid())


def load_program_of_another_user(place):
    """One with the bit that lends its owner's rights: it runs, and has them, where nothing bars."""
    subprocess.run([str(place / "setuid")], check=True)


def use_capability(place):
    """One that the super-user has."""
    os.chroot("/")


def change_root(place):
    must(libc.mount(b"none", os.fsencode(place), b"tmpfs", ctypes.c_ulong(0), None))
    must(libc.umount2(os.fsencode(place), 2))


def call_as_32_bit(place):
    """getpid in the way of 32-bit programs, whose numbers are others."""
    code = b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3"  # push rbx; mov eax, 20; int 0x80; pop; ret
    with mmap.mmap(-1, mmap.PAGESIZE, prot=7) as page:
        page.write(code)
        at = ctypes.c_char.from_buffer(page)
        answer = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(at))()
        del at
    assert answer == os.getpid()


def use_threads(place):
    """What decoders do, and must be able to."""
    done = []
    threads = [threading.Thread(target=done.append, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(done)


def end_itself(place):
    os.abort()


def leave_somebody_behind(place):
    """Another process, that goes on; its number is written down."""
    pid = os.fork()
    if not pid:
        os.close(child._outbox.get().pipe)
        time.sleep(600)
    (place / "pid").write_text(str(pid))
    time.sleep(600)


# What is said


def raw(data):
    """Bytes that are no message of ours, and then nothing for a while."""
    transport._write(child._outbox.get().pipe, data)
    time.sleep(60)


def frame(tree, size=0, shared=False, length=None):
    tree = tree if isinstance(tree, bytes) else tree.encode()
    return (
        transport._FRAME.pack(len(tree) if length is None else length, size, shared, 0, False)
        + tree
    )


def say(tree, size=0, shared=False, data=b""):
    raw(frame(tree, size, shared) + data)


def outcome(value="null", status='["enum","Status","OK"]', seconds="0.1", rest=""):
    """The tree of an outcome with these parts."""
    return f'["class","Outcome",{value},{status},"",{seconds},0,"",0,null,0.1{rest}]'


def shrink(_):
    """Announce arrays in the shared file, which is shorter."""
    outbox = child._outbox.get()
    os.ftruncate(outbox.file, 1 << 20)
    tree = outcome('["array","uint8",4194304]')
    os.ftruncate(outbox.file, 4096)
    say(tree, 1 << 22, True)


def shrink_behind(_):
    """Cut the file while the parent is at it, again and again."""
    outbox = child._outbox.get()
    size = 64 << 20
    os.ftruncate(outbox.file, size)
    transport._write(outbox.pipe, frame(outcome(f'["array","uint8",{size}]'), size, True))
    while True:
        os.ftruncate(outbox.file, 4096)
        os.ftruncate(outbox.file, size)


def drip(_):
    """A whole message, a byte now and then."""
    for byte in frame(outcome()):
        os.write(child._outbox.get().pipe, bytes([byte]))
        time.sleep(0.3)
    time.sleep(60)


def chatter(_):
    """Honest messages without end, and no answer."""
    while True:
        child.risk("x")


def flood(_):
    """A message that does not end."""
    while True:
        os.write(child._outbox.get().pipe, bytes(1 << 16))


def honest(value):
    """What is said of a value, as it should be."""
    tree, arrays = wire.encode(child.Outcome(value=value))
    return tree, b"".join(wire.pieces(arrays))
