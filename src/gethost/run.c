/* The command, while its lease lasts: watched together with the server and with signals.
 *
 * Three things can happen: a child ends or writes to stderr, the server speaks, or a signal
 * comes. One poll() waits for all of them.
 *
 * While a backup runs there is a second child. The attempt that succeeds first counts. If the
 * backup ends in any other way, the first attempt goes on as if there had been none. The backup's
 * files are renamed or removed before any process can notice that gethost has ended.
 *
 * If a signal ends gethost, make must see that: gethost passes the signal on, waits for the
 * child, and ends by the same signal. A signal from the terminal goes to the whole process group
 * and reaches the child without gethost.
 *
 * This file does not know what the command does, or the protocol.
 */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "array.h"
#include "attempt.h"
#include "backup.h"
#include "child.h"
#include "clock.h"
#include "descriptors.h"

struct run {
    char **argv;
    const struct command *command;
    struct holding *holding;
    struct attempt first, backup;
    struct backup_files files;
    bool backup_was_stopped;
    bool backup_hit_backoff; /* one did; if the next one does too, its host is at fault */
    bool backup_counts;      /* it succeeded, and the first attempt has been asked to end */
    bool was_revoked;
    char reason[REASON_SIZE]; /* of the revocation */
    int ended_by;             /* the signal that ends gethost, or 0 */
};

/* ---- the backup ---- */

static void say_of_backup(const struct run *run, const char *what, const char *why)
{
    const struct lease *lease = &run->backup.lease;
    say_verbosely("backup %s on %s %s%s", lease->id, lease->host, what, why);
}

/* Does the first attempt run, without having been asked to end? */
static bool first_goes_on(const struct run *run)
{
    return attempt_is_running(&run->first) && run->first.kill_ms < 0;
}

/* False if it cannot be started. */
static bool launch_backup(struct run *run, const struct lease *lease)
{
    char **argv = backup_command(run->argv, &run->command->outputs, &run->files);
    run->backup = NO_ATTEMPT;
    run->backup.is_backup = run->backup.leaves_files = true;
    run->backup_was_stopped = false;
    return argv && attempt_start(&run->backup, argv, run->command->identity, lease, true);
}

/* Start the backup that the server offers, or decline it. */
static void start_backup(struct run *run)
{
    const struct lease *lease = holding_backup(run->holding);
    if (!lease)
        return;
    bool is_useful = first_goes_on(run) && !run->first.text_overflowed;
    if (is_useful && run->backup.process && run->backup_was_stopped)
        return; /* end_backup() starts this one when the one before is over */
    if (is_useful && !run->backup.process && launch_backup(run, lease)) {
        say_verbosely("backup %s: %s (%s port %d, %d slots)", lease->id, lease->host,
                      lease->address, lease->port, lease->slots);
        return;
    }
    say_verbosely("backup %s on %s not started", lease->id, lease->host);
    holding_drop_backup(run->holding);
}

static void stop_backup(struct run *run, const char *why)
{
    if (!run->backup.process || run->backup_was_stopped || run->backup_counts)
        return;
    run->backup_was_stopped = true;
    say_of_backup(run, "stopped: ", why);
    attempt_stop(&run->backup);
}

/* Tell the server that the backup has failed, or was stopped on our side. If the first attempt
 * does not go on, its end tells the server. */
static void report_backup(struct run *run, bool next_is_offered)
{
    const struct attempt *backup = &run->backup;
    bool exited = WIFEXITED(backup->status);
    int status = exited ? WEXITSTATUS(backup->status) : 0;
    char reason[REASON_SIZE] = "ended by a signal";
    if (exited)
        snprintf(reason, sizeof reason, "distcc exit status %d", status);
    if (!run->backup_was_stopped)
        say_of_backup(run, "failed: ", reason);
    bool is_doubtful = attempt_hit_backoff(backup) && !run->backup_hit_backoff;
    run->backup_hit_backoff |= is_doubtful;
    if (!run->backup_was_stopped && !is_doubtful &&
        command_judge(run->command, status) == VERDICT_HOST_FAILED)
        holding_backup_failed(run->holding, status, reason);
    else if (first_goes_on(run) && !next_is_offered)
        holding_drop_backup(run->holding);
}

/* The backup is over. If it succeeded, it counts; else the next one may start. */
static void end_backup(struct run *run)
{
    struct attempt *backup = &run->backup;
    if (!run->backup_was_stopped && attempt_succeeded(backup)) {
        run->backup_counts = true;
        say_of_backup(run, "finished first", "");
        run->first.leaves_files = true;
        attempt_stop(&run->first);
        return;
    }
    backup_remove_files(&run->files);
    const struct lease *offered = holding_backup(run->holding);
    bool next_is_offered = offered && strcmp(offered->id, backup->lease.id) != 0;
    report_backup(run, next_is_offered);
    free(backup->text);
    *backup = NO_ATTEMPT;
    if (next_is_offered)
        start_backup(run);
}

/* ---- what can happen ---- */

static void handle_revocation(struct run *run, const char *reason)
{
    stop_backup(run, reason);
    if (run->was_revoked || run->backup_counts)
        return;
    run->was_revoked = true;
    snprintf(run->reason, sizeof run->reason, "%s", reason);
    attempt_stop(&run->first);
}

static void handle_server(struct run *run)
{
    for (;;) {
        char reason[REASON_SIZE];
        switch (holding_next_event(run->holding, reason)) {
        case HOLDING_REVOKED:
            handle_revocation(run, reason);
            break;
        case HOLDING_BACKUP_OFFERED:
            start_backup(run);
            break;
        case HOLDING_BACKUP_ENDED:
            stop_backup(run, reason);
            break;
        default:
            return;
        }
    }
}

/* Note the last signal that ends gethost, and pass it on. */
static void handle_signals(struct run *run)
{
    struct caught_signal caught;
    while (next_signal(&caught)) {
        if (caught.number == SIGCHLD || caught.number == SIGPIPE)
            continue;
        run->ended_by = caught.number;
        if (caught.from_process && attempt_is_running(&run->first))
            kill(run->first.process, caught.number);
        attempt_set_deadline(&run->first);
        stop_backup(run, "a signal ends gethost");
    }
}

/* Wait for an event and handle it. The end of an attempt is not handled here: attempt_update()
 * notices it. */
static void wait_for_event(struct run *run)
{
    struct attempt *first = &run->first, *backup = &run->backup;
    enum { SIGNALS, SERVER, FIRST, BACKUP };
    struct pollfd watched[] = {
        [SIGNALS] = {.fd = signals_fd(), .events = POLLIN},
        [SERVER] = {.fd = -1}, /* poll() skips a descriptor of -1 */
        [FIRST] = {.fd = first->stderr_fd, .events = POLLIN},
        [BACKUP] = {.fd = backup->stderr_fd, .events = POLLIN},
    };
    watched[SERVER].fd = holding_fd(run->holding, &watched[SERVER].events);
    int64_t server_due_ms = holding_due_ms(run->holding);
    int64_t due_ms = earlier_ms(server_due_ms, earlier_ms(first->kill_ms, backup->kill_ms));
    if (poll(watched, ARRAY_LENGTH(watched), left_ms(due_ms)) < 0)
        return; /* a signal interrupted it: the next poll() finds it in the pipe */
    handle_signals(run);
    if (watched[FIRST].revents)
        attempt_read_text(first);
    if (watched[BACKUP].revents)
        attempt_read_text(backup);
    /* A text that overflows is shown in part already. The other attempt's text must not follow
     * it. */
    if (first->text_overflowed || backup->text_overflowed)
        stop_backup(run, "the compiler writes too much to stderr");
    if (watched[SERVER].revents || (server_due_ms >= 0 && server_due_ms <= now_ms()))
        handle_server(run);
}

/* ---- from start to end ---- */

_Noreturn static void cannot_start(const char *program)
{
    say("cannot start %s: %s", program, strerror(errno));
    _exit(126);
}

/* Returns when all attempts are over. */
static void watch_attempts(struct run *run)
{
    for (;;) {
        attempt_update(&run->first);
        attempt_update(&run->backup);
        if (!attempt_is_running(&run->first))
            stop_backup(run, "the first attempt has ended");
        if (run->backup.process && attempt_is_over(&run->backup) && !run->backup_counts)
            end_backup(run);
        if (attempt_is_over(&run->first) && attempt_is_over(&run->backup))
            return;
        wait_for_event(run);
    }
}

/* Decide which attempt counts, and rename or remove the backup's files. No signal may interrupt. */
static struct attempt *choose_attempt(struct run *run, struct outcome *outcome)
{
    if (!run->backup_counts)
        return &run->first;
    bool first_counts = run->ended_by || attempt_succeeded(&run->first);
    if (!first_counts && backup_keep_files(&run->files)) {
        snprintf(outcome->backup_id, sizeof outcome->backup_id, "%s", run->backup.lease.id);
        return &run->backup;
    }
    if (!first_counts) {
        outcome->was_revoked = outcome->cannot_keep_backup = true;
        snprintf(outcome->reason, sizeof outcome->reason,
                 "cannot rename the files of its backup: %s", strerror(errno));
        /* gethost ended the first attempt, so the attempt's own status says nothing. */
        outcome->signal = SIGTERM;
    }
    backup_remove_files(&run->files);
    return &run->first;
}

static struct outcome conclude(struct run *run)
{
    sigset_t all;
    sigfillset(&all);
    /* A signal from now on, after the last look at the pipe, takes effect in restore_signals(). */
    sigprocmask(SIG_SETMASK, &all, NULL);
    handle_signals(run);
    struct outcome outcome = {.was_revoked = run->was_revoked};
    snprintf(outcome.reason, sizeof outcome.reason, "%s", run->reason);
    struct attempt *counts = choose_attempt(run, &outcome);
    stop_catching_signals();
    if (run->ended_by) {
        holding_end(run->holding);
        write_all(STDERR_FILENO, counts->text, counts->text_length);
        end_by_signal(run->ended_by);
    }
    free(counts == &run->first ? run->backup.text : run->first.text);
    outcome.wall_s = counts->wall_s;
    outcome.cpu_s = counts->cpu_s;
    outcome.hit_backoff = !outcome.was_revoked && attempt_hit_backoff(counts);
    outcome.text = counts->text;
    outcome.text_length = counts->text_length;
    if (WIFEXITED(counts->status))
        outcome.exit_status = WEXITSTATUS(counts->status);
    else if (WIFSIGNALED(counts->status))
        outcome.signal = WTERMSIG(counts->status);
    return outcome;
}

struct outcome run_with_lease(char **argv, const struct command *command, struct holding *holding,
                              bool keep_text)
{
    struct run run = {.argv = argv,
                      .command = command,
                      .holding = holding,
                      .first = NO_ATTEMPT,
                      .backup = NO_ATTEMPT};
    if (!catch_signals() || !attempt_start(&run.first, argv, command->identity,
                                           holding_lease(holding), keep_text))
        cannot_start(argv[0]);
    watch_attempts(&run);
    attempt_read_text(&run.first);
    attempt_close_text(&run.first);
    return conclude(&run);
}
