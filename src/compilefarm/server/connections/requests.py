"""The port of requests: one connection, one request, one lease.

A lease lasts until its connection closes, so a client that is killed gives its slot back. While the
compile runs, it may have a backup too; messages about a backup carry the backup's id.
"""

from __future__ import annotations

from compilefarm.core.events import BackupEnded, LeaseAttached, RequestArrived, RequestEnded
from compilefarm.core.model import Ending, Lease, Outcome, Request
from compilefarm.protocol.compilers import DOOR_LIMIT, wanted_compiler_of
from compilefarm.protocol.wire import Message, WireError, encoded
from compilefarm.server.connections.lines import LineConnection
from compilefarm.server.connections.message_fields import (
    DAY_S,
    host_and_port_of,
    is_yes,
    outcome_of,
    wrong_verb,
)
from compilefarm.server.host_server import HostServer

_SILENT_END = Outcome()
_GIVEN_UP = Outcome(reason="the client gave it up", ending=Ending.GIVEN_UP)


class RequestConnection(LineConnection):
    """A client's connection for one request, and the lease that it gets."""

    port = "requests"

    def __init__(self, server: HostServer) -> None:
        super().__init__(server)
        self._id = 0  # the request's; 0 while there is none
        self._waits = False

    # -- from the client

    def take(self, message: Message) -> None:
        """See `LineConnection`."""
        if message.verb == "request" and not self._id:
            self._ask(message)
        elif message.verb in ("done", "failed", "dropped") and self._id:
            self._attempt_ended(message)
        elif message.verb == "attach" and not self._id:
            self._attach(message)
        elif message.verb == "jobs" and not self._id:
            count = self._server.farm.jobs_worth_using(self._wanted(message, 0))
            self.send_last("jobs", count=count)
        else:
            raise wrong_verb(message)

    def ended(self) -> None:
        """See `LineConnection`."""
        if self._waits:
            self._waits_no_more()
        self._end(_SILENT_END)

    def _ask(self, message: Message) -> None:
        if self._server.waiting_of.full(self.sender):
            why = f"{self._server.waiting_of.limit} requests of {self.sender} wait already"
            self._server.refused(self.sender, f"{why} (--waiting-per-address)")
            self.send_last("refused", reason=why)
            return
        request = self._request(message)
        self._server.happen(RequestArrived(request))

    def _request(self, message: Message) -> Request:
        """Return the request in a message, under a new id that this connection has from now on."""
        request = self._wanted(message, self._server.new_request_id())
        self._id = request.id
        self._server.requests[request.id] = self
        return request

    def _wanted(self, message: Message, number: int) -> Request:
        """Return what a message asks for, as a request with this number."""
        # Each compile sends this message, so the plain words are read without `Message.text`.
        word = message.words.get
        return Request(
            number,
            word("user") or self.sender,
            word("builder") or self.sender,
            message.integer("cpus", 1, low=1),
            word("dir", ""),
            word("source", ""),
            word("compiler", ""),
            word("type", ""),
            message.items("avoid"),
            message.optional_number("wait_s", high=DAY_S),
            returning=is_yes(message, "returning"),
            can_back_up=is_yes(message, "backup"),
            identity=wanted_compiler_of(message),
            sameness=self._server.sameness,
        )

    def _attach(self, message: Message) -> None:
        life, _, number = message.required("id").rpartition("-")
        host, port = host_and_port_of(message)
        running_s = message.number("running_s", 0.0, high=DAY_S)
        known = int(number) if number.isdecimal() and life == self._server.life else 0
        holder = self._server.requests.get(known)
        if known in self._server.farm.leases and holder and holder.sender == self.sender:
            # The client's earlier connection has broken, and we have not noticed yet.
            self._id = known
            self._server.requests[known] = self
            holder.hand_over()
            self._give_backup_up()
        else:
            request = self._request(message)
            door = message.text("door")[:DOOR_LIMIT]
            self._server.happen(LeaseAttached(request, host, port, running_s, door))
        if self._id in self._server.farm.leases:
            self.send("attached", id=self._id_on_wire())

    def _give_backup_up(self) -> None:
        """End the backup, if there is one: a client that attaches its lease anew has ended it."""
        backup = self._server.farm.backups.get(self._id)
        if backup is not None:
            self._server.happen(BackupEnded(self._id, backup.attempt, _GIVEN_UP))

    def hand_over(self) -> None:
        """Close without ending the request: the client holds it by another connection now."""
        self._id = 0
        self._transport.abort()

    def _attempt_ended(self, message: Message) -> None:
        """Act on the end of an attempt: the compile's first one, or a backup."""
        attempt = _attempt_of(message.text("id"))
        if message.verb == "done" or (message.verb == "failed" and not attempt):
            self._end(outcome_of(message), attempt)
            self.close()
            return
        if not attempt:
            raise WireError("dropped needs id=, the id of a backup")
        outcome = outcome_of(message) if message.verb == "failed" else _GIVEN_UP
        self._server.happen(BackupEnded(self._id, attempt, outcome))

    def _end(self, outcome: Outcome, attempt: int = 0) -> None:
        if self._server.requests.pop(self._id, None) is not None:
            self._server.happen(RequestEnded(self._id, outcome, attempt))

    # -- to the client

    def grant(self, lease: Lease, address: str) -> None:
        """Tell the client which slot it has, for its compile or for a backup of it."""
        if self._waits:
            self._waits_no_more()
        host = lease.host
        verb = "backup" if lease.is_backup else "lease"
        door = f" door={lease.door}" if lease.door else ""
        # Each compile gets this line, and `format_line` takes four times as long for it.
        self._write(
            f"{verb} id={self._id_on_wire(lease.attempt)} host={encoded(host.name)}"
            f" address={address} port={host.port} slots={host.capacity}{door}\n".encode()
        )

    def wait(self, ahead: int) -> None:
        """Tell the client that it waits, behind about `ahead` other requests."""
        if not self._waits:
            self._waits = True
            self._server.waiting_of.add(self.sender)
        self.send("wait", ahead=ahead)

    def drop(self, backup: Lease, reason: str) -> None:
        """Tell the client to end a backup."""
        self.send("drop", id=self._id_on_wire(backup.attempt), reason=reason)

    def _waits_no_more(self) -> None:
        self._waits = False
        self._server.waiting_of.drop(self.sender)

    def _id_on_wire(self, attempt: int = 0) -> str:
        """Return the id of an attempt at this compile, as the protocol has it."""
        first = f"{self._server.life}-{self._id}"
        return f"{first}.{attempt}" if attempt else first


def _attempt_of(id_on_wire: str) -> int:
    """Return the number of the attempt that an id names; 0 is the first."""
    _, _, number = id_on_wire.rpartition(".")
    return int(number) if number != id_on_wire and number.isdecimal() else 0
