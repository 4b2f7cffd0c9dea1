"""Calls of one function, each in a fresh process of this machine; no port is opened for them."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

GRACE_SECONDS = 30.0  # after Ctrl-C, which processes get as well: to write a checkpoint


class ProcessDied(Exception):  # noqa: N818 (an outcome that is told, not a fault of the caller)
    """The process ended without an answer, as one does that the system killed for its memory."""


def each_in_a_process(
    function: Callable[..., Any], calls: Sequence[Mapping[str, Any]], *, workers: int
) -> Iterator[tuple[int, Any]]:
    """The number and value of every call, as they end; an exception is given as the value.

    At most `workers` run at a time, with one thread each. When the iterator is closed, those that
    run are ended.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(enumerate(calls))
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number, call = waiting.popleft()
                ours, theirs = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(
                    target=_answer, args=(theirs, function, dict(call)), daemon=True
                )
                process.start()
                theirs.close()
                running[ours] = (number, process)
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                number, ended = running[ready]
                value = _value(ready, ended)
                del running[ready]
                yield number, value
    finally:
        for connection, (_, process) in running.items():
            connection.close()
            _end(process)


def _answer(parent: Connection, function: Callable[..., Any], call: Mapping[str, Any]) -> None:
    torch.set_num_threads(1)
    try:
        value = function(**call)
    except KeyboardInterrupt:
        return
    except Exception as error:  # told by the parent, which knows what was asked
        value = error
    parent.send(value)


def _value(connection: Connection, process: BaseProcess) -> Any:
    try:
        value = connection.recv()
    except EOFError:
        process.join()
        value = ProcessDied(f"its process ended without an answer (exit code {process.exitcode})")
    connection.close()
    process.join()
    return value


def _end(process: BaseProcess) -> None:
    process.join(GRACE_SECONDS)
    for end in (process.terminate, process.kill):
        if process.is_alive():
            end()
            process.join(5)
