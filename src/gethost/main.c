/* gethost: run a compile on the CPU that host-server picks for it.
 *
 *     make -j64 CC="gethost distcc gcc"
 *
 * gethost asks host-server for a slot, names its host in DISTCC_HOSTS, runs the command, and
 * gives the slot back by closing the connection. It stays the command's parent. That is why a
 * build survives its farm: if a host fails, gethost uses another one, and in the end this
 * machine.
 *
 * It runs once per file, so its start must be fast: no library but libc, no threads, and no name
 * service for a numeric address.
 *
 * The files, each of which uses only files further down:
 *
 *   - main.c: the story (identify, ask, run, ask again, compile here)
 *   - options.c: gethost's own options
 *   - run.c: the command while its lease lasts
 *   - backup.c: the files of a second run of the same compile
 *   - attempt.c: one run of the command, as a child
 *   - holding.c: the lease while the command runs
 *   - asking.c: asking servers for a lease
 *   - message.c: a line from a server, taken apart and checked
 *   - request.c: what to ask for
 *   - connection.c: a TCP connection that carries lines
 *   - line.c: a line to a server
 *   - address.c: from the list of servers to socket addresses
 *   - environment.c: what distcc is told
 *   - door.c: the name that tells a host which compiler to run
 *   - command.c: what distcc would do with the command
 *   - outputs.c: the files that a compile writes
 *   - words.c: the words of a command line
 *   - compiler_id.c: which compiler a command names
 *   - id_cache.c: what is remembered about compilers
 *   - id_parts.c: the id of a compiler, worked out from its parts
 *   - driver.c: finding a compiler's driver, and its name
 *   - query.c: asking a program
 *   - build_id.c: the build id of a program
 *   - sha256.c: SHA-256
 *   - stamps.c: noticing that files have changed
 *   - program.c: looking up programs
 *   - local.c: compiling here, at most as many at once as there are CPUs
 *   - away.c: remembering that a server is away
 *   - notes.c: what the gethosts of one user leave for each other
 *   - child.c: signals, exec, and ending by a signal
 *   - say.c: messages to the user
 *   - descriptors.c: private file descriptors
 *   - clock.c: time and deadlines
 *   - cpus.c: the CPUs of this machine
 *   - quoting.c: percent-encoding
 *   - text.c: questions about strings
 *
 * Memory. The process is short, and its end frees everything: the words of commands,
 * environments, the contents of files. Only these are freed earlier, because they would pile up
 * with each new lease:
 *
 *   - attempt.text: becomes outcome.text if the attempt counts. Otherwise run.c frees it.
 *   - outcome.text: the caller of run_with_lease() owns it, and frees it before the next lease.
 *   - holding: its last call frees it: holding_done(), holding_failed() or holding_end().
 *
 * This file does not know the protocol, distcc's variables, or signals.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "asking.h"
#include "away.h"
#include "child.h"
#include "command.h"
#include "compiler_id.h"
#include "cpus.h"
#include "descriptors.h"
#include "door.h"
#include "environment.h"
#include "holding.h"
#include "local.h"
#include "options.h"
#include "program.h"
#include "request.h"
#include "run.h"
#include "say.h"
#include "text.h"

enum {
    /* A third host in a row that fails is rare; by then, compiling here is faster. */
    HOSTS_TO_TRY = 3,
    /* In the morning, the owners of many desktops come back, and no host has failed. */
    LEASES_TO_TRY = 12,
};

_Noreturn static void print_jobs(const struct options *options)
{
    char reason[REASON_SIZE], text[32];
    int jobs;
    if (ask_for_jobs(options->servers, &jobs, reason) != ANSWER_JOBS) {
        jobs = builder_cpus();
        say("no number of jobs from %s (%s); using the number of CPUs of this machine",
            options->servers, reason);
    }
    snprintf(text, sizeof text, "%d\n", jobs);
    print_and_exit(text);
}

/* ---- on this machine ---- */

_Noreturn static void run_at_once(const struct options *options, const char *reason)
{
    say_verbosely("%s runs here: %s", options->command[0], reason);
    become_command(options->command, environment_for_local());
}

/* The command was meant for the farm, perhaps together with 500 others. */
_Noreturn static void run_here(const struct options *options, const char *reason)
{
    local_take_turn();
    run_at_once(options, reason);
}

_Noreturn static void run_unchanged(const struct options *options)
{
    extern char **environ;
    say_verbosely("%s runs unchanged: it is already under gethost or distcc", options->command[0]);
    become_command(options->command, environ);
}

/* ---- on the farm ---- */

/* Return a lease, or run the command here. */
static struct holding *get_lease(const struct options *options, const struct request *request)
{
    const char *servers = options->servers;
    char reason[REASON_SIZE];
    struct grant grant;
    bool is_news;
    switch (ask_for_lease(request, &grant, reason, &is_news)) {
    case ANSWER_LEASE:
        say_verbosely("lease %s: %s (%s port %d, %d slots)", grant.lease.id, grant.lease.host,
                      grant.lease.address, grant.lease.port, grant.lease.slots);
        struct holding *holding = holding_start(request, &grant);
        if (holding)
            return holding;
        run_here(options, "out of memory");
    case ANSWER_REFUSED:
        /* With --wait, or after a host has failed, the user expects this. */
        if (!say_is_verbose() && !options->wait_s && !*request->avoid &&
            away_is_first_refusal(servers))
            say("compiling here: host-server refuses (%s)", reason);
        run_here(options, reason);
    default:
        if (is_news && !say_is_verbose())
            say("compiling here: no host-server at %s (%s)", servers, reason);
        run_here(options, reason);
    }
}

/* End as the command ended. */
_Noreturn static void finish(const struct outcome *outcome, struct holding *holding)
{
    if (outcome->signal)
        holding_end(holding);
    else
        holding_done(holding, outcome->backup_id, outcome->exit_status, outcome->wall_s,
                     outcome->cpu_s);
    write_all(STDERR_FILENO, outcome->text, outcome->text_length);
    if (outcome->signal)
        end_by_signal(outcome->signal);
    _exit(outcome->exit_status);
}

/* Is the door of the lease there, if it has one? A full disk, for example, can prevent that. */
static bool has_door(const struct options *options, const struct command *command,
                     const struct lease *lease)
{
    return !command->identity || !*lease->door ||
           door_make(lease->door, command->identity, options->command);
}

static struct outcome run_on_host(const struct options *options, const struct command *command,
                                  struct holding *holding)
{
    bool keep_text = command->kind == COMMAND_COMPILE && !environment_wants_distcc_log();
    struct outcome outcome = run_with_lease(options->command, command, holding, keep_text);
    if (!outcome.hit_backoff)
        return outcome;
    /* That says nothing about the host. If the host is dead, it fails once more. */
    free(outcome.text);
    return run_with_lease(options->command, command, holding, keep_text);
}

/* Identify the command's compiler, or run the command here. */
static void identify_compiler(const struct options *options, struct command *command)
{
    static struct compiler compiler;
    const char *word = options->command[1];
    if (!word || strcmp(base_name(word), base_name(command->compiler)) != 0)
        return; /* distcc takes a default, or finds the compiler in an @FILE */
    command->identity = &compiler;
    if (compiler_identify(word, &compiler)) {
        const char *obstacle = door_obstacle(&compiler, options->command);
        if (obstacle)
            run_here(options, obstacle);
        return;
    }
    if (!say_is_verbose() && away_is_first_in_build(compiler.reason))
        say("%s; compiling here", compiler.reason);
    run_here(options, compiler.reason);
}

_Noreturn static void run_on_farm(const struct options *options, const struct command *command)
{
    struct request request = {
        .servers = options->servers,
        .type = options->type,
        .wait_s = options->wait_s,
        .source = command->source,
        .compiler = command->compiler,
        .identity = command->identity,
        .can_back_up = command->outputs.are_known && !environment_adds_outputs(),
    };
    int failed_hosts = 0, revoked_leases = 0;
    while (failed_hosts < HOSTS_TO_TRY && failed_hosts + revoked_leases < LEASES_TO_TRY) {
        struct holding *holding = get_lease(options, &request);
        if (!has_door(options, command, holding_lease(holding))) {
            holding_end(holding);
            run_here(options, "cannot make a link to the compiler in its cache");
        }
        struct outcome outcome = run_on_host(options, command, holding);
        enum verdict verdict = command_judge(command, outcome.exit_status);

        /* If the command ended just before its lease was revoked, its end counts. */
        bool has_ended = outcome.signal ? !outcome.was_revoked : verdict == VERDICT_FINAL;
        if (has_ended)
            finish(&outcome, holding);
        struct lease lease = *holding_lease(holding);
        if (outcome.was_revoked) {
            revoked_leases++;
            holding_end(holding);
        } else if (verdict == VERDICT_HOST_FAILED) {
            failed_hosts++;
            snprintf(outcome.reason, sizeof outcome.reason, "distcc exit status %d",
                     outcome.exit_status);
            holding_failed(holding, outcome.exit_status, outcome.reason);
        } else {
            holding_end(holding);
            run_here(options, "distcc does not work on this machine");
        }
        say_verbosely("no result from %s: %s", lease.host, outcome.reason);
        free(outcome.text);
        request_avoid(&request, lease.host);
        request.can_back_up = request.can_back_up && !outcome.cannot_keep_backup;
    }
    char reason[REASON_SIZE];
    snprintf(reason, sizeof reason, "no result from %d hosts", failed_hosts + revoked_leases);
    run_here(options, reason);
}

int main(int argc, char **argv)
{
    (void)argc;
    door_pass(argv);
    struct options options = options_read(argv);
    if (options.jobs)
        print_jobs(&options);
    if (options.compiler_ids) {
        compiler_print_ids(options.command);
        _exit(0);
    }

    const char *program = options.command[0];
    int missing = program_missing(program);
    if (missing) {
        say("cannot run %s: %s; check the command, and PATH", program,
            missing == 127 ? "not found" : "not an executable file");
        _exit(missing);
    }
    if (environment_is_nested())
        run_unchanged(&options);
    struct command command = command_read(options.command);
    if (command.kind == COMMAND_LOCAL && !command.compiles)
        run_at_once(&options, command.reason); /* a link, for example: make limits how many run */
    if (command.kind == COMMAND_LOCAL)
        run_here(&options, command.reason);
    if (command.kind == COMMAND_COMPILE && !environment_has_distcc_dir())
        run_here(&options, "distcc cannot write to $DISTCC_DIR or ~/.distcc");
    if (command.kind == COMMAND_COMPILE)
        identify_compiler(&options, &command);
    run_on_farm(&options, &command);
}
