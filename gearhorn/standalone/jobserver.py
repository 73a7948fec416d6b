"""gear's embedded job server, mended so that its clients see what gearmand would show them.

Theory of operation. gear's own server differs from gearmand in much that a client can see, so a
program that was tried beside it would meet another Gearman than in production. Of gear only the
frame is in use: the listening socket, the accept thread, the poll thread (epoll, edge-triggered)
and the shutdown. What is read, kept and answered is ours, in four parts: ``connection`` cuts bytes
into requests, ``JobServer`` has a handler for each type of packet, ``queues`` keeps the books, and
``commands`` answers text.

All requests are handled on the poll thread, so nothing here locks but the list of connections,
which the accept thread appends to. Answers are collected and written once per read, so a pipelining
client costs two system calls per buffer, not per job.

It runs within a process of its own: ``python -m gearhorn.standalone.jobserver --port 0``.

Rules: the protocol is Gearman's PROTOCOL text; where that is silent, gearmand 1.1.20 was asked.
``tests/contract/test_jobserver*.py`` asks both servers the same; docs/standalone.rst lists where
they differ on purpose. A client that breaks the protocol costs its own connection.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import select
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import cast

import gear
from gear import constants

from gearhorn.standalone.commands import MAX_TOKENS, Commands
from gearhorn.standalone.connection import HEADER, Link
from gearhorn.standalone.queues import HIGH, LOW, NORMAL, Function, Job, Peer, QueueFull, Queues

# Connections that may wait to be accepted: as many as a burst of reconnecting clients makes.
BACKLOG = 512
# Bytes per read: more gains nothing, less makes 8 MiB payloads slow.
READ_SIZE = 1 << 18
# Bytes of a unique id: gearmand takes 64 and then spoils the payload.
MAX_UNIQUE = 63
# Between two checks whether the parent still lives: the process may outlive it for so long.
PARENT_CHECK_S = 1.0
# Packet types that gear does not know.
GRAB_JOB_ALL = 39
GET_STATUS_UNIQUE = 41
STATUS_RES_UNIQUE = 42

_SUBMITS = {
    constants.SUBMIT_JOB_HIGH: (HIGH, False),
    constants.SUBMIT_JOB: (NORMAL, False),
    constants.SUBMIT_JOB_LOW: (LOW, False),
    constants.SUBMIT_JOB_HIGH_BG: (HIGH, True),
    constants.SUBMIT_JOB_BG: (NORMAL, True),
    constants.SUBMIT_JOB_LOW_BG: (LOW, True),
}


class JobServer(gear.Server):  # type: ignore[misc]  # gear is untyped
    """A Gearman job server in two threads of this process, running as soon as it is made.

    Arguments:
        host: the address to listen on.
        port: the port; 0: a free one, to be read from ``port``.
        attempts: a job is dropped (its client gets WORK_FAIL) when this many workers died of it,
            gearmand's ``--job-retries``; 0: it is handed on however many there were.

    Raises OSError if the address cannot be listened on. ``shutdown()`` ends it. Of gear.Server only
    the life of threads and connections is in use; its packet handlers are never called.

    Methods in camel case are gear's, which calls them by these names.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 4730, attempts: int = 0) -> None:
        # Everything stands before gear's constructor is called: it starts the threads, which use
        # it.
        prefix = f"H:{socket.gethostname()[:32]}-{secrets.token_hex(4)}"
        self._queues = Queues(prefix.encode(), attempts)
        self._unsent: set[Link] = set()
        self._scratch = memoryview(bytearray(READ_SIZE))
        self._handlers = self._table()
        self._commands = Commands(self._queues, self._workers, self._fail)
        try:
            super().__init__(port=port, host=host)
        except Exception as error:  # gear raises nothing more precise, and only when it cannot bind
            raise OSError(f"cannot listen on {host}:{port}") from error
        self.socket.listen(BACKLOG)  # gear asked for a backlog of one

    def _table(self) -> dict[int, Callable[[Link, bytes], None]]:
        """Packet type -> handler. A type without one is answered with an error, as any other
        mistake of a client; the connection lives on."""
        table: dict[int, Callable[[Link, bytes], None]] = {
            constants.CAN_DO: self._can_do,
            constants.CAN_DO_TIMEOUT: self._can_do,  # the time limit is not kept
            constants.CANT_DO: self._cant_do,
            constants.RESET_ABILITIES: self._reset_abilities,
            constants.PRE_SLEEP: self._pre_sleep,
            constants.GRAB_JOB: self._grab,
            constants.GRAB_JOB_UNIQ: self._grab_unique,
            GRAB_JOB_ALL: self._grab_unique,  # as gearmand does for jobs without a reducer
            constants.WORK_DATA: partial(self._forward, constants.WORK_DATA),
            constants.WORK_WARNING: partial(self._forward, constants.WORK_WARNING),
            constants.WORK_STATUS: self._work_status,
            constants.WORK_COMPLETE: partial(self._finish, constants.WORK_COMPLETE),
            constants.WORK_FAIL: partial(self._finish, constants.WORK_FAIL),
            constants.WORK_EXCEPTION: partial(self._finish, constants.WORK_EXCEPTION),
            constants.GET_STATUS: self._get_status,
            GET_STATUS_UNIQUE: self._get_status_unique,
            constants.ECHO_REQ: self._echo,
            constants.OPTION_REQ: self._option,
            constants.SET_CLIENT_ID: self._set_client_id,
        }
        for kind, (priority, background) in _SUBMITS.items():
            table[kind] = partial(self._submit, priority, background)
        return table

    # gear's threads

    def connectLoop(self) -> None:
        """Accept connections as Links until shutdown; runs on gear's accept thread.

        gear's own would make connections of its class. A link is listed and registered with epoll
        under one lock, so that the poll thread never hears of one that is not listed.
        """
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        poll.register(self.connect_wake_read, select.POLLIN)  # written to by shutdown()
        while self.running:
            for fd, _ in poll.poll():
                if fd == self.socket.fileno():
                    accepted, address = self.socket.accept()
                    link = Link(address, accepted)
                    with self.connections_condition:
                        self.active_connections.append(link)
                        self._registerConnection(link)

    def readFromConnection(self, link: Link) -> None:
        """Read until the socket is empty (the polling is edge-triggered) and handle each request.

        Answers to what one read brought leave before the next read, so that a client that goes on
        sending is answered meanwhile.

        Raises gear.DisconnectError when the peer has closed, OSError when the connection broke.
        """
        while True:
            try:
                count = link.conn.recv_into(self._scratch)
            except BlockingIOError:
                return
            if not count:
                raise gear.DisconnectError()
            link.receive(self._scratch[:count])
            for kind, body in link.requests():
                if kind is None:
                    self._text(link, body)
                elif handler := self._handlers.get(kind):
                    handler(link, body)
                else:
                    self._error(link, b"INVALID_COMMAND", b"Command not expected")
            self._flush()

    def _processPollEvent(self, link: Link, event: int) -> None:
        # Unlike gear's: what was sent before a hang-up counts, and a fault ends this link only. The
        # link is flushed in any case, for the event may be that its socket has room again.
        try:
            self._unsent.add(link)
            self.readFromConnection(link)
        except (gear.DisconnectError, gear.InvalidDataError, OSError):
            self._lostConnection(link)
        except Exception:
            self.log.exception("A request could not be handled; closing the connection %r", link)
            self._lostConnection(link)
        self._flush()

    def _lostConnection(self, link: Link) -> None:
        """Forget a link: as a client first, so that its own foreground jobs are not handed on, then
        as a worker, whose jobs go back to their queues."""
        with self.connections_condition:
            self._unregisterConnection(link)
            if link in self.active_connections:
                self.active_connections.remove(link)
        link.conn.close()
        self._queues.leave(link)
        self._unserve(link, link.serves)

    def _flush(self) -> None:
        """Write to every link that was answered, not only to the one that was read: a result goes
        to the job's client, a NOOP to sleepers."""
        while self._unsent:
            self._unsent.pop().flush()

    # Answers

    def _send(self, peer: Peer, kind: int, body: bytes = b"") -> None:
        link = cast(Link, peer)  # the queues were given no other peers
        link.send(HEADER.pack(constants.RES, kind, len(body)), body)
        self._unsent.add(link)

    def _error(self, link: Link, code: bytes, text: bytes) -> None:
        self._send(link, constants.ERROR, code + b"\0" + text)

    def _write(self, link: Link, lines: Iterable[bytes]) -> None:
        link.send(*lines)
        self._unsent.add(link)

    def _fail(self, job: Job) -> None:
        """Tell the clients of a job that it has failed; a background job has none."""
        for client in job.clients:
            self._send(client, constants.WORK_FAIL, job.handle)

    def _wake(self, function: Function) -> None:
        """Wake every worker that sleeps and serves the function, each once until it sleeps again.

        gearmand does so too: the first to grab gets the job, the others sleep again.
        """
        for worker in function.workers:
            if worker.asleep:
                worker.sleep(False)
                self._send(worker, constants.NOOP)

    # Requests of clients

    def _submit(self, priority: int, background: bool, link: Link, body: bytes) -> None:
        """Queue a job, or join one. Its handle is told before any worker is woken, so that a client
        never hears of a job's end before it knows the job."""
        parts = body.split(b"\0", 2)
        if len(parts) < 3:
            self._error(link, b"INVALID_PACKET", b"A job needs a function, a unique and a payload")
            return
        name, unique, payload = parts
        if len(unique) > MAX_UNIQUE:
            self._error(link, b"ARGUMENT_TOO_LARGE", b"Unique value too large")
            return
        try:
            client = None if background else link
            job = self._queues.submit(name, unique, payload, priority=priority, client=client)
        except QueueFull:
            self._error(link, b"QUEUE_ERROR", b"Job queue is full")
            return
        self._send(link, constants.JOB_CREATED, job.handle)
        self._wake(job.function)

    def _get_status(self, link: Link, handle: bytes) -> None:
        state = _state(self._queues.jobs.get(handle))
        self._send(link, constants.STATUS_RES, b"\0".join((handle, *state)))

    def _get_status_unique(self, link: Link, unique: bytes) -> None:
        """Answer as for a handle, with the number of clients that wait besides."""
        job = self._queues.find(unique)
        clients = b"%d" % (len(job.clients) if job is not None else 0)
        self._send(link, STATUS_RES_UNIQUE, b"\0".join((unique, *_state(job), clients)))

    def _echo(self, link: Link, body: bytes) -> None:
        self._send(link, constants.ECHO_RES, body)

    def _option(self, link: Link, option: bytes) -> None:
        """gearmand knows one option: to be sent exceptions as such."""
        if option.lower() == b"exceptions":
            link.want_exceptions()
            self._send(link, constants.OPTION_RES, option)
        else:
            self._error(link, b"UNKNOWN_OPTION", b"Server does not recognize given option")

    def _set_client_id(self, link: Link, name: bytes) -> None:
        link.name(name)

    # Requests of workers

    def _can_do(self, link: Link, body: bytes) -> None:
        self._queues.serve(link, _split(body, 1)[0])

    def _cant_do(self, link: Link, name: bytes) -> None:
        self._unserve(link, [name])

    def _reset_abilities(self, link: Link, _: bytes) -> None:
        self._unserve(link, link.serves)

    def _unserve(self, link: Link, names: Iterable[bytes]) -> None:
        """A worker leaves functions. What it had in hand wakes others, or has cost too many."""
        returned, given_up = self._queues.unserve(link, names)
        for job in returned:
            self._wake(job.function)
        for job in given_up:
            self._fail(job)

    def _pre_sleep(self, link: Link, _: bytes) -> None:
        """Let a worker sleep, unless a job has come since its last grab: then it is woken at once,
        or that job would wait until the next one."""
        link.sleep(not self._queues.has_work(link))
        if not link.asleep:
            self._send(link, constants.NOOP)

    def _grab(self, link: Link, _: bytes) -> None:
        if job := self._take(link):
            body = b"\0".join((job.handle, job.function.name, job.payload))
            self._send(link, constants.JOB_ASSIGN, body)

    def _grab_unique(self, link: Link, _: bytes) -> None:
        if job := self._take(link):
            body = b"\0".join((job.handle, job.function.name, job.unique, job.payload))
            self._send(link, constants.JOB_ASSIGN_UNIQ, body)

    def _take(self, link: Link) -> Job | None:
        """Assign the worker its next job, or say that there is none. Who asks does not sleep."""
        link.sleep(False)
        job = self._queues.take(link)
        if job is None:
            self._send(link, constants.NO_JOB)
        return job

    def _forward(self, kind: int, link: Link, body: bytes) -> None:
        """Pass what a worker says of a job on to its clients. Only the worker that has the job may
        say it: another may hold a handle of before."""
        job = link.assigned.get(_split(body, 1)[0])
        if job is None:
            self._error(link, b"JOB_NOT_FOUND", b"Job does not exist on server")
            return
        for client in job.clients:
            self._send(client, kind, body)

    def _work_status(self, link: Link, body: bytes) -> None:
        """Keep how far a job is, for GET_STATUS, and pass it on."""
        handle, numerator, denominator = _split(body, 3)
        if job := link.assigned.get(handle):
            job.advance(numerator, denominator.rstrip(b"\0"))
        self._forward(constants.WORK_STATUS, link, body)

    def _finish(self, kind: int, link: Link, body: bytes) -> None:
        """End a job and tell its clients. A second end finds no job, and is an error.

        Clients that did not ask for exceptions would not understand one, and are told of a failure.
        """
        job = self._queues.finish(link, _split(body, 1)[0])
        if job is None:
            self._error(link, b"JOB_NOT_FOUND", b"Job given in work result not found")
        elif kind == constants.WORK_FAIL:
            self._fail(job)
        else:
            for client in job.clients:
                if kind == constants.WORK_EXCEPTION and not client.wants_exceptions:
                    self._send(client, constants.WORK_FAIL, job.handle)
                else:
                    self._send(client, kind, body)

    def _text(self, link: Link, line: bytes) -> None:
        """Answer one line of the text protocol; gearmand closes on one of too many words."""
        tokens = line.split()
        if len(tokens) > MAX_TOKENS:
            raise gear.InvalidDataError("too many words")
        self._write(link, self._commands.answer(tokens))

    def _workers(self) -> Iterator[bytes]:
        """The lines that tell of each connection: its functions as a worker."""
        for link in list(self.active_connections):
            functions = b"".join(b" " + name for name in link.serves)
            host, client_id = link.host.encode(), link.client_id or b"-"
            yield b"%d %s %s :%s\n" % (link.conn.fileno(), host, client_id, functions)


def _split(body: bytes, count: int) -> list[bytes]:
    """The first ``count`` arguments, absent ones empty; of several the last takes the rest."""
    parts = body.split(b"\0", max(count - 1, 1))[:count]
    return parts + [b""] * (count - len(parts))


def _state(job: Job | None) -> tuple[bytes, bytes, bytes, bytes]:
    """Whether a job is known, whether it runs, and how far it is, as STATUS_RES tells it."""
    if job is None:
        return b"0", b"0", b"0", b"0"
    return b"1", b"1" if job.worker else b"0", *job.progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT or the end of the parent process.

    Prints ``listening HOST PORT`` once it is. Returns the exit status: 0, or 1 if the address
    cannot be listened on; the log line has "address already in use" in it, by which ``servers``
    knows that another port may help.

    The parent's end is found by asking, since a process that was started in a session of its own
    gets no signal when it loses its parent; on Linux ``servers`` has the kernel send one besides.
    """
    parser = argparse.ArgumentParser(prog="gearhorn.standalone.jobserver", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=4730, help="0: a free one (%(default)s)")
    parser.add_argument(
        "--job-retries", type=int, default=0, help="workers that may die of one job; 0: any number"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    parent = os.getppid()
    told, teller = socket.socketpair()
    teller.setblocking(False)
    signal.set_wakeup_fd(teller.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _take_note)
    try:
        server = JobServer(options.host, options.port, options.job_retries)
    except OSError as error:
        logging.error("%s: address already in use, or not ours", error)
        return 1
    print("listening", options.host, server.port, flush=True)
    while not select.select([told], [], [], PARENT_CHECK_S)[0] and os.getppid() == parent:
        pass
    server.shutdown()
    return 0


def _take_note(number: int, frame: object) -> None:
    """Do nothing at a signal: that it came is written to the socket that ``main`` waits for,
    whichever thread it hit. (``signal.sigtimedwait`` tells of a signal that never came where the
    process stood still for longer than its time.)"""


if __name__ == "__main__":
    raise SystemExit(main())
