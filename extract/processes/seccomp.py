"""Linux's filter of system calls: what a process that decodes never needs is refused for good.

A refused call fails as one that is not permitted, so that a library which merely tries gets on.
Some calls are refused by their arguments: files are opened for reading only, a thread is made but
no process, a signal goes to nobody else. Calls in the way of another processor (32-bit ones above
all) would have other numbers, so they end the process.

Source: https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator, Sequence
from itertools import chain

# By what it is for: a call, its number on x86-64, and on aarch64 (-: has none).
_REFUSED = """
the network:            socket 41 198, socketpair 53 199, connect 42 203, bind 49 200,
                        listen 50 201, accept 43 202, accept4 288 242
programs, processes:    execve 59 221, execveat 322 281, fork 57 -, vfork 58 -
other processes:        ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271,
                        process_madvise 440 440, process_mrelease 448 448, kcmp 312 272,
                        pidfd_open 434 434, pidfd_getfd 438 438, pidfd_send_signal 424 424,
                        tkill 200 130, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240,
                        setpriority 141 140, ioprio_set 251 30, sched_setaffinity 203 122,
                        sched_setscheduler 144 119, sched_setparam 142 118, sched_setattr 314 274,
                        migrate_pages 256 238, move_pages 279 239
shared with others:     memfd_create 319 279, shmget 29 194, shmat 30 196, shmctl 31 195,
                        semget 64 190, semop 65 193, semctl 66 191, semtimedop 220 192,
                        msgget 68 186, msgsnd 69 189, msgrcv 70 188, msgctl 71 187,
                        mq_open 240 180, mq_unlink 241 181
changes to files:       creat 85 -, truncate 76 45, chmod 90 -, fchmod 91 52, fchmodat 268 53,
                        fchmodat2 452 452, chown 92 -, lchown 94 -, fchown 93 55, fchownat 260 54,
                        utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88,
                        setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, setxattrat 463 463,
                        removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16,
                        removexattrat 466 466, file_setattr 469 469, link 86 -, linkat 265 37,
                        symlink 88 -, symlinkat 266 36, rename 82 -, renameat 264 38,
                        renameat2 316 276, unlink 87 -, unlinkat 263 35, mkdir 83 -,
                        mkdirat 258 34, rmdir 84 -, mknod 133 -, mknodat 259 33,
                        open_by_handle_at 304 265, name_to_handle_at 303 264,
                        inotify_init 253 -, inotify_init1 294 26, inotify_add_watch 254 27,
                        fanotify_init 300 262, fanotify_mark 301 263
mounts, name spaces:    mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51,
                        move_mount 429 429, open_tree 428 428, open_tree_attr 467 467,
                        fsopen 430 430, fsconfig 431 431, fsmount 432 432, fspick 433 433,
                        mount_setattr 442 442, swapon 167 224, swapoff 168 225, quotactl 179 60,
                        quotactl_fd 443 443, unshare 272 97, setns 308 268
the kernel's own:       bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, keyctl 250 219,
                        add_key 248 217, request_key 249 218, io_uring_setup 425 425,
                        io_uring_enter 426 426, io_uring_register 427 427, io_setup 206 0,
                        io_submit 209 2, kexec_load 246 104, kexec_file_load 320 294,
                        init_module 175 105, finit_module 313 273, delete_module 176 106,
                        reboot 169 142, syslog 103 116, acct 163 89, settimeofday 164 170,
                        clock_settime 227 112, clock_adjtime 305 266, adjtimex 159 171,
                        sethostname 170 161, setdomainname 171 162, iopl 172 -, ioperm 173 -,
                        modify_ldt 154 -, personality 135 92, vhangup 153 58, vmsplice 278 75,
                        uselib 134 -
other users:            setuid 105 146, setgid 106 144, setreuid 113 145, setregid 114 143,
                        setresuid 117 147, setresgid 119 149, setfsuid 122 151, setfsgid 123 152,
                        setgroups 116 159, capset 126 91
"""
# Their arguments are structures, which a filter cannot see: libraries then take the older call.
_UNKNOWN = {"clone3": (435, 435), "openat2": (437, 437)}
_OPEN: Sequence[int | None] = (2, None)
_OPENAT, _CLONE, _KILL, _TGKILL = (257, 56), (56, 220), (62, 129), (234, 131)
_PRCTL, _PRLIMIT, _IOCTL, _SECCOMP = (157, 167), (302, 261), (16, 29), (317, 277)

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, the kernel's name
_X32 = 0x40000000  # a bit in the numbers of a third way of calling on x86-64
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NOT_PERMITTED, _NOT_KNOWN = _ERROR | errno.EPERM, _ERROR | errno.ENOSYS
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
_THREAD = 0x10000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_DEATH_SIGNAL = 1  # of prctl
_TYPING = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX: keystrokes into somebody's terminal

_libc = ctypes.CDLL(None, use_errno=True)

Step = tuple[int, int, int, int]  # operation, steps to skip if so and if not, operand


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("steps", ctypes.c_char_p))


def restrict() -> None:
    """From now on, all threads of this process are refused what decoding never needs.

    Raises:
        OSError: the kernel does not filter, or not for us.
        LookupError: the numbers of this processor's calls are not known.
    """
    column = _machine()[0]
    steps = list(program(platform.machine(), os.getpid()))
    packed = struct.pack("=" + len(steps) * "HBBI", *chain.from_iterable(steps))
    every_thread, spare_speculation = 1, 4  # without the second, older kernels slow the process
    for flags in (every_thread | spare_speculation, every_thread):
        answer = _libc.syscall(
            ctypes.c_long(_SECCOMP[column]),
            ctypes.c_long(1),  # set a filter
            ctypes.c_long(flags),
            ctypes.byref(_Program(len(steps), packed)),
        )
        if answer == 0:
            return
    error = ctypes.get_errno() if answer < 0 else errno.EBUSY
    raise OSError(error, os.strerror(error))


def _machine() -> tuple[int, int]:
    machine = platform.machine()
    if machine not in _MACHINES or sys.maxsize < 1 << 32:
        raise LookupError(f"no filter for {machine} processors")
    return _MACHINES[machine]


def refused(machine: str) -> dict[str, int]:
    """The calls that are refused whatever their arguments, with their numbers."""
    column = _MACHINES[machine][0]
    numbers = {}
    for group in _REFUSED.strip().replace(",\n", ", ").splitlines():
        for call in group.partition(":")[2].split(","):
            name, *columns = call.split()
            if columns[column] != "-":
                numbers[name] = int(columns[column])
    return numbers


def program(machine: str, pid: int) -> Iterator[Step]:
    """The filter, for the process `pid`."""
    column, kernels_name = _MACHINES[machine]
    yield _LOAD, 0, 0, _MACHINE_AT
    yield _EQUAL, 1, 0, kernels_name
    yield _RETURN, 0, 0, _KILL_PROCESS
    yield _LOAD, 0, 0, _NUMBER_AT
    if machine == "x86_64":
        yield _AT_LEAST, 0, 1, _X32
        yield _RETURN, 0, 0, _NOT_PERMITTED
    for number in sorted(refused(machine).values()):
        yield _EQUAL, 0, 1, number
        yield _RETURN, 0, 0, _NOT_PERMITTED
    for numbers in _UNKNOWN.values():
        yield _EQUAL, 0, 1, numbers[column]
        yield _RETURN, 0, 0, _NOT_KNOWN
    # A call, one of its arguments, a question, and whether the call is good if the answer is yes.
    rules: Sequence[tuple[Sequence[int | None], int, int, int, bool]] = (
        (_OPEN, 1, _ANY_BIT, _WRITING, False),
        (_OPENAT, 2, _ANY_BIT, _WRITING, False),
        (_CLONE, 0, _ANY_BIT, _THREAD, True),
        (_KILL, 0, _EQUAL, pid, True),
        (_TGKILL, 0, _EQUAL, pid, True),  # a process ends itself in this way
        (_PRCTL, 0, _EQUAL, _DEATH_SIGNAL, False),
        (_PRLIMIT, 0, _EQUAL, 0, True),
    )
    for calls, argument, question, operand, good in rules:
        if (known := calls[column]) is not None:
            yield _EQUAL, 0, 4, known
            yield _LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument
            yield question, 0, 1, operand
            yield _RETURN, 0, 0, _ALLOW if good else _NOT_PERMITTED
            yield _RETURN, 0, 0, _NOT_PERMITTED if good else _ALLOW
    yield _EQUAL, 0, len(_TYPING) + 3, _IOCTL[column]
    yield _LOAD, 0, 0, _ARGUMENTS_AT + 8
    for request in _TYPING:
        yield _EQUAL, len(_TYPING) - _TYPING.index(request), 0, request
    yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, _NOT_PERMITTED
    yield _RETURN, 0, 0, _ALLOW
