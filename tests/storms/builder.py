"""A builder: a machine on which make -jN runs, with a gethost for each compile.

This gethost follows docs/protocol.md and the time limits of the real one (src/gethost). It asks for
a lease, holds it by holding the connection, runs the compile on the host, and reports how it ended.
After a restart of the server it attaches the lease to the new one. It runs a backup as well, and
tries another host when one fails or its lease is revoked. In the end, or without a server, it
compiles on its own machine. Then all gethosts of this builder avoid the server for some seconds.

distcc is between gethost and distccd: it gives up connecting after 4 s, and waiting after 300 s.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compilefarm.protocol.ports import DISTCCD_PORT
from compilefarm.protocol.wire import Message

from .clock import Process
from .compile_host import EXIT_REMOTE_FAILED
from .host_server import REQUESTS
from .programs import Bell, Line

if TYPE_CHECKING:
    from .plan import BuilderPlan
    from .world import World

CONNECT_WITHIN_S = 0.25
FIRST_ANSWER_WITHIN_S = 1.0
SILENT_AFTER_S = 15.0
AWAY_FRESH_S = 10.0
ASK_AGAIN_S = 5.0
ASK_PAUSE_S = 0.5
ATTACH_PAUSES_S = (0.2, 0.5, 1.0)
ATTACH_ANSWER_WITHIN_S = 1.0
HOSTS_TO_TRY = 3
DISTCC_CONNECT_WITHIN_S = 4.0
DISTCC_ANSWER_WITHIN_S = 300.0
DISTCC_FAILED = range(100, 121)


@dataclass(slots=True)
class File:
    """A file of a build, and what has happened to it."""

    source: str
    cost_s: float
    exit: int
    compiler: str = "gcc"
    type: str = ""
    endings: list[str] = field(default_factory=list)  # one per time that its compile ended
    begun: int = 0  # number of times that a host got it
    excuses: int = 0  # number of reasons to begin it again
    backups: int = 0  # number of backups


class Builder:
    """A user's machine, and the build that runs on it."""

    def __init__(self, world: World, plan: BuilderPlan) -> None:
        self.world = world
        self.plan = plan
        self.machine = world.network.machine(plan.name, plan.address)
        self.files: list[File] = []
        self.to_do: deque[File] = deque()
        self.running: dict[Gethost, asyncio.Task[None]] = {}
        self.server_avoided_until = 0.0
        self.chance = random.Random(f"{world.plan.seed}/{plan.name}")
        self.process: Process
        self._cpus: asyncio.Semaphore

    def start(self, files: list[File]) -> None:
        """Start a make of these files."""
        self.files += files
        self.to_do.extend(files)
        self._boot()

    @property
    def done(self) -> bool:
        """Whether all files are compiled."""
        return not self.to_do and not self.running and self.machine.has_power

    def kill_one(self, number: int) -> None:
        """Kill one gethost, as a user may; make will compile its file again."""
        if self.running:
            gethost = list(self.running)[number % len(self.running)]
            gethost.kill()
            self.running[gethost].cancel()

    def power_off(self) -> None:
        """Lose power during the build."""
        for gethost in self.running:
            gethost.file.excuses += 1
            gethost.forget()
            self.to_do.appendleft(gethost.file)
        self.running.clear()
        self.process.kill()
        self.world.network.power_off(self.machine)

    def power_on(self) -> None:
        """Boot, and start make again."""
        self.world.network.power_on(self.machine)
        self._boot()

    def _boot(self) -> None:
        self.process = self.world.network.process(self.plan.name, self.machine)
        self._cpus = asyncio.Semaphore(self.plan.cpus)
        self.server_avoided_until = 0.0
        self.process.enter(self._start_gethosts)

    def _start_gethosts(self) -> None:
        while self.to_do and len(self.running) < self.plan.jobs:
            gethost = Gethost(self, self.to_do.popleft())
            task = self.process.create_task(gethost.run())
            self.running[gethost] = task
            task.add_done_callback(gethost.ended)

    def gethost_ended(self, gethost: Gethost, task: asyncio.Task[None]) -> None:
        """Remove a gethost that has ended, and start the next one."""
        if self.running.pop(gethost, None) is None:
            return
        if task.cancelled():
            gethost.file.excuses += 1
            self.to_do.appendleft(gethost.file)
        else:
            task.result()
        self._start_gethosts()

    async def compile_here(self, file: File) -> None:
        """Compile on this machine; at most as many compiles run at once as it has CPUs."""
        async with self._cpus:
            await asyncio.sleep(file.cost_s / 2.0)


class Gethost:
    """One gethost: one compile, from its request to its end."""

    def __init__(self, builder: Builder, file: File) -> None:
        self.builder = builder
        self.file = file
        self.world = builder.world
        self.bell = Bell(builder.process)
        self.server: Line | None = None
        self.attempts: dict[str, _Attempt] = {}  # by lease id, the first attempt first
        self._hold: _Hold
        self.avoid: set[str] = set()
        self.on_host = ""  # the host on which it compiles now, under a lease

    def __repr__(self) -> str:
        return f"{self.builder.plan.name}'s gethost of {self.file.source}"

    async def run(self) -> None:
        """Compile the file, on a host or here."""
        for _ in range(HOSTS_TO_TRY):
            lease = await self._get_lease()
            if lease is None:
                break
            status = await self._run_with(lease)
            if status is not None:
                self._end(f"on {lease.words['host']}", status)
                return
            self.avoid.add(lease.words["host"])
        if self.world.telling:
            self.world.tell(f"{self} compiles it here")
        await self.builder.compile_here(self.file)
        self._end("here", self.file.exit)

    def kill(self) -> None:
        """Be killed: the kernel closes its connections."""
        if self.server is not None:
            self.server.endpoint.hang_up()
        for attempt in self.attempts.values():
            attempt.line.endpoint.hang_up()
        self.forget()

    def forget(self) -> None:
        """Tell the watch that this client of a connection is gone."""
        if self.server is not None:
            self.world.watch.client_gone(self.server.endpoint)

    def ended(self, task: asyncio.Task[None]) -> None:
        """Tell the builder."""
        self.builder.gethost_ended(self, task)

    def _end(self, where: str, status: int) -> None:
        self.file.endings.append(where)
        assert status == self.file.exit, f"{self} ended with {status} instead of {self.file.exit}"

    # -- the lease

    async def _get_lease(self) -> Message | None:
        """Ask for a lease; return None if the file must be compiled here.

        A gethost that has waited asks again for a while, because the server may be restarted.
        """
        clock, builder = self.world.clock, self.builder
        if clock.now < builder.server_avoided_until:
            return None
        returning = False
        until = clock.now
        while True:
            lease, waited = await self._ask(returning)
            if lease is not None and lease.verb == "lease":
                if self.world.telling:
                    self.world.tell(
                        f"{self} has lease {lease.words['id']} on {lease.words['host']}"
                    )
                return lease
            self._let_go()
            if lease is not None:
                if self.world.telling:
                    self.world.tell(f"{self}: the server refuses: {lease.words['reason']}")
                return None
            if waited:
                returning = True
                until = clock.now + ASK_AGAIN_S
            if clock.now >= until:
                if self.world.telling:
                    self.world.tell(f"{self}: the server is away")
                builder.server_avoided_until = clock.now + AWAY_FRESH_S
                return None
            await asyncio.sleep(self.builder.chance.uniform(0.0, ASK_PAUSE_S))

    async def _ask(self, returning: bool) -> tuple[Message | None, bool]:
        """Ask once; return the answer, or None, and whether the server sent `wait`."""
        clock = self.world.clock
        line = self.server = self.new_line()
        line.connect(self.world.server_address, REQUESTS)
        until = clock.now + CONNECT_WITHIN_S
        first_answer_until = clock.now + FIRST_ANSWER_WITHIN_S
        while not line.opened:
            if line.closed or clock.now >= until:
                return None, False
            await self.bell.wait(until)
        words = self.words()
        if returning:
            words["returning"] = "yes"
        line.say("request", **words)
        until, waited = first_answer_until, False
        while True:
            message = line.hear()
            if message is None:
                if line.closed or clock.now >= until:
                    return None, waited
                await self.bell.wait(until)
            elif message.verb == "wait":
                until, waited = clock.now + SILENT_AFTER_S, True
            else:
                assert message.verb in ("lease", "refused"), f"{self} hears {message}"
                return message, waited

    def new_line(self) -> Line:
        """Return a new connection, which rings our bell."""
        builder = self.builder
        return Line(self.world.network, builder.process, builder.machine, self.bell.ring)

    def words(self) -> dict[str, object]:
        """Return the words of `request` and `attach` about the compile."""
        file, plan = self.file, self.builder.plan
        return {
            "user": plan.user,
            "builder": plan.name,
            "cpus": plan.cpus,
            "avoid": self.avoid or None,
            "compiler": file.compiler,
            "type": file.type or None,
            "source": file.source,
            "dir": plan.directory,
            "backup": "yes" if plan.backups else None,
        }

    def _let_go(self) -> None:
        if self.server is not None:
            self.server.close()
            self.forget()
            self.server = None

    # -- the compile

    async def _run_with(self, lease: Message) -> int | None:
        """Run the compile under a lease; return its exit status, None if it must be repeated."""
        hold = self._hold = _Hold(self, lease)
        first = _Attempt(self, lease)
        self.attempts = {lease.words["id"]: first}
        self.file.begun += 1
        self.on_host = lease.words["host"]
        counts, revoked = await self._wait_for_the_first(hold, first)
        for attempt in self.attempts.values():
            attempt.line.close()
        self.attempts = {}
        self.on_host = ""
        status = counts.status
        failed = status in DISTCC_FAILED
        if status is None or failed:
            self.file.excuses += 1
        if self.world.telling:
            how = f"is revoked: {revoked}" if status is None else f"ends with {status}"
            self.world.tell(f"{self} on {counts.host} {how}")
        if self.server is not None and hold.is_known and status is not None:
            self._report(self.server, counts, status, is_backup=counts is not first)
        self._let_go()
        return None if failed else status

    async def _wait_for_the_first(self, hold: _Hold, first: _Attempt) -> tuple[_Attempt, str]:
        """Wait until the compile ends or its lease is revoked.

        Returns the attempt that counts, and the reason of a revocation.
        """
        while True:
            revoked = hold.step()
            if not hold.is_known:
                self.drop_backup()
            for attempt in list(self.attempts.values()):
                attempt.step()
            backup = self.backup
            if first.status is not None or revoked:
                return first, revoked
            if backup is not None and backup.status == 0:
                return backup, ""
            if backup is not None and backup.status is not None:
                self._backup_failed(backup)
            else:
                due = min(attempt.until for attempt in self.attempts.values())
                await self.bell.wait(min(due, hold.due))

    def _report(self, server: Line, counts: _Attempt, status: int, *, is_backup: bool) -> None:
        if status in DISTCC_FAILED:
            server.say("failed", exit=status, reason=f"distcc exit status {status}")
            return
        named = {"id": counts.lease_id} if is_backup else {}
        took_s = self.world.clock.now - counts.began
        server.say("done", exit=status, wall_s=took_s, cpu_s=0.01, **named)

    # -- the backup

    @property
    def backup(self) -> _Attempt | None:
        """The second attempt, or None."""
        return next((each for each in list(self.attempts.values())[1:]), None)

    def begin_backup(self, message: Message) -> None:
        """Run the compile on a second host, too."""
        assert self.backup is None, f"{self} has a backup, and gets another"
        assert message.words["host"] != self.on_host, f"{self}: both attempts on one host"
        if self.world.telling:
            self.world.tell(f"{self} has backup {message.words['id']} on {message.words['host']}")
        self.file.backups += 1
        self.file.begun += 1
        self.attempts[message.words["id"]] = _Attempt(self, message)

    def drop_backup(self) -> None:
        """Give up the backup, if there is one."""
        backup = self.backup
        if backup is not None:
            if self.world.telling:
                self.world.tell(f"{self} gives its backup up")
            backup.line.close()
            del self.attempts[backup.lease_id]

    def _backup_failed(self, backup: _Attempt) -> None:
        self.drop_backup()
        if self.server is not None and self._hold.is_known:
            if backup.status in DISTCC_FAILED:
                self.server.say("failed", id=backup.lease_id, exit=backup.status)
            else:
                self.server.say("dropped", id=backup.lease_id)


class _Attempt:
    """The compile on one host: distcc, from the connection to the exit status."""

    def __init__(self, gethost: Gethost, lease: Message) -> None:
        self._gethost = gethost
        self.lease_id = lease.words["id"]
        self.host = lease.words["host"]
        self.began = gethost.world.clock.now
        self.until = self.began + DISTCC_CONNECT_WITHIN_S
        self.status: int | None = None
        self.line = gethost.new_line()
        self.line.connect(lease.words["address"], DISTCCD_PORT)
        self._said = False

    def step(self) -> None:
        """Do what is due now."""
        now, file = self._gethost.world.clock.now, self._gethost.file
        if self.status is not None:
            return
        if self.line.opened and not self._said:
            self.line.endpoint.write(b"%.6f %d\n" % (file.cost_s, file.exit))
            self._said = True
            self.until = now + DISTCC_ANSWER_WITHIN_S
        answer = self.line.hear_raw()
        if answer is not None:
            self.status = int(answer)
        elif self.line.closed or now >= self.until:
            self.status = EXIT_REMOTE_FAILED


class _Hold:
    """A lease, held by its connection; after that breaks, by another one (`attach`).

    It does not affect the compile.
    """

    def __init__(self, gethost: Gethost, lease: Message) -> None:
        self._gethost = gethost
        self._lease = dict(lease.words)
        self._began = gethost.world.clock.now
        self._tries = 0
        self.is_known = True  # to a server, as far as we know
        self.given_up = False
        self._said = False
        self.due = math.inf  # when to act, even if no message comes

    def step(self) -> str:
        """Do what is due now; return the reason if the lease was revoked, else ""."""
        line, now = self._gethost.server, self._gethost.world.clock.now
        if self.given_up:
            return ""
        if line is None:
            if now >= self.due:
                self._connect()
            return ""
        message = line.hear()
        if message is not None:
            return self._take(message)
        if line.closed or now >= self.due:
            self._lose()
            pause_s = ATTACH_PAUSES_S[min(self._tries, len(ATTACH_PAUSES_S) - 1)]
            self.due = now + self._gethost.builder.chance.uniform(0.0, pause_s)
            self._tries += 1
        elif line.opened and not self.is_known and not self._said:
            self._said = True
            host, running_s = self._lease["host"], now - self._began
            words = self._gethost.words()
            line.say("attach", id=self._lease["id"], host=host, running_s=running_s, **words)
        return ""

    def _take(self, message: Message) -> str:
        """Act on a message, and on those after it; return as `step` does."""
        gethost = self._gethost
        match message.verb:
            case "revoked":
                return message.words["reason"]
            case "backup":
                gethost.begin_backup(message)
            case "drop":
                if gethost.backup is not None and gethost.backup.lease_id == message.words["id"]:
                    gethost.drop_backup()
            case "attached":
                self._lease["id"] = message.words["id"]
                self.is_known, self._tries, self.due = True, 0, math.inf
            case _:
                assert not self.is_known, f"{gethost} hears {message}"
                self._lose()
                self.given_up, self.due = True, math.inf
                return ""
        return self.step()

    def _connect(self) -> None:
        gethost = self._gethost
        gethost.server = gethost.new_line()
        gethost.server.connect(gethost.world.server_address, REQUESTS)
        self._said = False
        self.due = gethost.world.clock.now + ATTACH_ANSWER_WITHIN_S

    def _lose(self) -> None:
        self.is_known = False
        if self._gethost.world.telling:
            self._gethost.world.tell(f"{self._gethost} has lost its server")
        self._gethost._let_go()
