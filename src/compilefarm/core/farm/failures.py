"""Blame: what is held against which part, when a compile fails or a builder gets another answer.

Blame goes to the smallest thing that explains what happened, in this order:

 1. *This command.* It ended badly on two hosts. It compiles at home, and counts against no host.
 2. *This builder.* Its compiles end badly on two or more hosts that the server can use. Nothing is
    held against these hosts for other builders.
 3. *This host's door to this compiler.* A probe with the compiler got an answer and no object. Or
    builders got another answer than the host gave, for two sources. The host keeps its place for
    other compilers.
 4. *This host.* A probe got no answer, or compiles of two builders failed there.

The order is that of harm. Keeping one file at home costs one compile. Taking a host from all
builders costs the farm a machine. One wrong setting on one builder could do that to all hosts.

So nothing is believed on a client's word alone. A failed compile keeps the host from that builder
at once, and the host is probed at once with the compiler as it was sent. The answer decides. A host
whose compiles mostly succeed keeps its door: of many files, a few may be odd.

This part knows nothing of requests that wait, and of a lease only how it ended.
"""

from __future__ import annotations

from compilefarm.core.events import CompileJudged, HostNoted, HostProbed, Probe
from compilefarm.core.farm.closures import LACKS_FOR_S, Closures
from compilefarm.core.farm.commands import Command, Commands, command_of
from compilefarm.core.farm.holds import TROUBLE_FOR_S, Holds
from compilefarm.core.farm.quarantine import PROBE_AGAIN_S, Quarantine
from compilefarm.core.farm.roster import Roster
from compilefarm.core.farm.totals import Totals
from compilefarm.core.farm.turn import Turn
from compilefarm.core.model import Differing, Host, Lease, Outcome, Request, Trial
from compilefarm.protocol.compilers import sent_name
from compilefarm.protocol.wire import printable

# distcc's exit status if the other side could not execute the compiler.
EXIT_COMPILER_MISSING = 110

SOURCES_TO_CLOSE = 2
DIFFERS_WITHIN_S = 600.0
# A door stays open if this many compiles succeed there for each one that differs.
SUCCESSES_PER_ODD_FILE = 10
# The compilers that one host is probed with at once, and the failures that wait for one probe.
TRIALS_LIMIT = 8
FAILURES_PER_TRIAL = 64


class Failures:
    """Weighs failed compiles, verdicts and probes, and blames what they point to."""

    def __init__(
        self, roster: Roster, quarantine: Quarantine, closures: Closures, totals: Totals
    ) -> None:
        self.commands = Commands()
        self.holds = Holds()
        self._roster = roster
        self._quarantine = quarantine
        self._closures = closures
        self._totals = totals

    # -- leases end

    def compile_failed(self, lease: Lease, outcome: Outcome, turn: Turn) -> None:
        """Hold a host back from the builder whose compile it did not do, and probe the host."""
        host, request = lease.host, lease.request
        self._totals.failed += 1
        if not host.added or lease.granted < host.failed_at:
            return
        if outcome.exit == EXIT_COMPILER_MISSING and request.compiler:
            self._lacks(host, lease.door, request.compiler, turn)
            return
        self.holds.begin(request, host.name, lease.granted, turn.now)
        turn.choice_narrowed = True
        why = printable(outcome.reason) or f"exit {outcome.exit}"
        text = f"a compile of {printable(request.builder)} failed there: {why}"
        turn.effects.append(HostNoted(host.name, text))
        if not host.quarantined:
            self._try(lease, turn)

    def compile_succeeded(self, lease: Lease, turn: Turn) -> None:
        """Count a success, which may speak for the host and against what failed there."""
        host, request = lease.host, lease.request
        self.commands.ended_well(command_of(request))
        self.holds.succeeded(request, host.name, lease.granted, turn.now)
        if host.failing and lease.granted >= max(host.failing.values()):
            host.failing.clear()
        if host.differing:
            differing = host.differing.get(lease.door or request.compiler)
            if differing is not None:
                differing.successes += 1
        self._quarantine.succeeded(host, lease.granted, turn.now)

    # -- verdicts

    def judged(self, event: CompileJudged, turn: Turn) -> None:
        """Weigh how a compile ended on its builder that had not ended well on a host."""
        if event.local_exit != 0 and not event.reason:
            return  # the error is the source's
        host = self._roster.hosts.get(event.host)
        command = Command(event.builder, event.directory, event.source)
        self.holds.had_trouble(command, event.host, turn.now)
        if self.holds.is_to_blame(event.builder, turn.now):
            self._open_for_others(event.builder, turn)
        if self.commands.ended_badly(command, event.host, turn.now):
            self._forget_command(command)
            return
        key = event.door or event.compiler
        if host is None or not host.added or not key or key in host.closures:
            return
        differing = host.differing.setdefault(key, Differing())
        differing.commands[command] = turn.now
        self._weigh(host, event, differing, turn)

    def _weigh(self, host: Host, event: CompileJudged, differing: Differing, turn: Turn) -> None:
        """Close a door if enough sources speak against it, and nothing smaller explains them."""
        commands, now = differing.commands, turn.now
        for command in [each for each, at in commands.items() if now - at >= DIFFERS_WITHIN_S]:
            del commands[command]
        sources = {command[1:] for command in commands}
        count = len(commands)
        if len(sources) < SOURCES_TO_CLOSE:
            return
        if differing.successes >= SUCCESSES_PER_ODD_FILE * count:
            del host.differing[event.door or event.compiler]
            return
        builders = {command[0] for command in commands}
        if all(self.holds.is_to_blame(builder, now) for builder in builders):
            self._hold_for_long(host, event.builder, event.door, event.compiler, turn)
            return
        what = f"gives wrong objects ({printable(event.reason)})" if event.reason else "fails"
        reason = (
            f"{printable(event.compiler or event.door)} {what} here where builders succeed:"
            f" {printable(event.source)}, {count} times"
        )
        sole = event.builder if len(builders) == 1 else ""
        self._close(host, event.door, event.compiler, reason, turn, sole)

    def _open_for_others(self, builder: str, turn: Turn) -> None:
        """Open the doors again that were closed for one builder's compiles: it is to blame."""
        for host in self._roster.hosts.values():
            for closure in [each for each in host.closures.values() if each.builder == builder]:
                self._closures.open(host, closure.door, turn)
                door = closure.door if closure.by_id else ""
                self._hold_for_long(host, builder, door, closure.compiler, turn)

    def _hold_for_long(
        self, host: Host, builder: str, door: str, compiler: str, turn: Turn
    ) -> None:
        """Hold a host's compiler back from one builder, and look whether the server can use it."""
        request = Request(0, builder=builder, compiler=compiler)
        self.holds.begin(request, host.name, turn.now, turn.now, LACKS_FOR_S)
        turn.choice_narrowed = True
        if (door or compiler) not in host.trials:
            self._probe(host, door or compiler, Trial(turn.now, compiler), turn)

    def _forget_command(self, command: Command) -> None:
        """Let a command that is to blame itself count against no door."""
        for host in self._roster.hosts.values():
            for differing in host.differing.values():
                differing.commands.pop(command, None)

    # -- probes

    def _try(self, lease: Lease, turn: Turn) -> None:
        """Probe a host with the compiler of a failed compile, as it was sent."""
        request = lease.request
        target = request.identity.target if request.identity is not None else ""
        sent = lease.door or sent_name(request.compiler, target)
        trial = lease.host.trials.get(sent)
        if trial is None or turn.now - trial.began >= PROBE_AGAIN_S:
            trial = Trial(turn.now, request.compiler)
            if not self._probe(lease.host, sent, trial, turn):
                return
        if len(trial.failed) < FAILURES_PER_TRIAL:
            trial.failed.append(request)

    def _probe(self, host: Host, sent: str, trial: Trial, turn: Turn) -> bool:
        if len(host.trials) >= TRIALS_LIMIT and sent not in host.trials:
            return False
        host.trials[sent] = trial
        host.probe_with = (sent, trial.compiler)
        turn.effects.append(Probe(host.name, host.address, host.port, sent))
        return True

    def probed(self, host: Host, event: HostProbed, turn: Turn) -> None:
        """Apply the result of a probe that a failed compile or a quarantine caused."""
        if not host.added:
            host.trials.clear()
            return
        trial = host.trials.pop(event.compiler, None)
        if not event.answered:
            if trial is not None or host.quarantined:
                self._explained(host, turn)
                self._quarantine.begin(host, "does not answer", turn)
            return
        if host.quarantined:
            self._quarantine.end(host, turn)
        if event.compiler and not event.compiled:
            self._does_not_compile(host, event.compiler, trial, turn)
        elif trial is not None:
            for request in trial.failed:
                self._unexplained(host, request, turn)

    def _does_not_compile(self, host: Host, sent: str, trial: Trial | None, turn: Turn) -> None:
        """Close the door of a compiler with which a host answers, and compiles nothing."""
        compiler = host.probe_with[1] if host.probe_with[0] == sent else sent
        if trial is not None:
            compiler = trial.compiler
            for request in trial.failed:
                self.holds.end(request.builder, host.name, request.compiler)
        self._lacks(host, _door_named(host, sent), compiler, turn)

    def _explained(self, host: Host, turn: Turn) -> None:
        """Let failures on a host that does not answer count against no command and no builder.

        The quarantine takes the place of the holds. A host that is back is back for all builders.
        """
        self.holds.pardon(host.name)
        for trial in host.trials.values():
            self.commands.explained(map(command_of, trial.failed), host.name)
        host.trials.clear()
        host.failing.clear()

    def _unexplained(self, host: Host, request: Request, turn: Turn) -> None:
        """Weigh a failure on a host that the server can use, with this compiler too."""
        now, builder = turn.now, request.builder
        command = command_of(request)
        self.holds.had_trouble(command, host.name, now)
        if self.commands.ended_badly(command, host.name, now):
            self._forget_command(command)
            for name in self._roster.hosts if not self.holds.is_to_blame(builder, now) else ():
                self.holds.end(builder, name, request.compiler)
            return
        host.failing = {each: at for each, at in host.failing.items() if now - at < TROUBLE_FOR_S}
        if builder not in host.failing:
            name = printable(builder)
            text = f"builder {name} cannot use this host, although the server can; firewall?"
            turn.effects.append(HostNoted(host.name, text))
        host.failing[builder] = now
        failing = [each for each in host.failing if not self.holds.is_to_blame(each, now)]
        if len(failing) > 1 and not host.quarantined:
            names = " and ".join(printable(each) for each in failing[-2:])
            self._quarantine.begin(host, f"compiles of builders {names} fail there", turn)

    # -- hosts

    def pardon(self, host: Host, turn: Turn) -> None:
        """Forget all failures of a host that is added again; older leases blame it no more."""
        self._quarantine.pardon(host, turn)
        self._closures.open_all(host, turn)
        self.holds.pardon(host.name)
        host.failing.clear()
        host.differing.clear()
        host.trials.clear()

    def quarantine(self, host: Host, reason: str, turn: Turn) -> None:
        """Give a host no leases until it has answered a probe."""
        self._quarantine.begin(host, reason, turn)

    def compilers_reported(self, host: Host, turn: Turn) -> None:
        """Forget what was held against compilers that a host no longer has."""
        self._closures.compilers_reported(host, turn)

    def _lacks(self, host: Host, door: str, compiler: str, turn: Turn) -> None:
        self._close(host, door, compiler, f"seems to lack {printable(door or compiler)}", turn)

    def _close(
        self, host: Host, door: str, compiler: str, reason: str, turn: Turn, builder: str = ""
    ) -> None:
        """Close a door; `builder` is the only one with evidence against it, if there is one."""
        self._closures.close(host, door, compiler, reason, turn, builder)
        differing = host.differing.pop(door or compiler, None)
        if differing is not None:
            self.commands.explained(map(Command._make, differing.commands), host.name)


def _door_named(host: Host, sent: str) -> str:
    """Return the door with that name, or an empty text if it is a plain name."""
    doors = (compiler.door for compiler in host.agent_compilers or ())
    return sent if sent in doors else ""
