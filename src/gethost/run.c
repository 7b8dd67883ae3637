/* The command while its lease lasts: watched together with the server and with signals.
 *
 * Three things can happen: a child changes state or writes to stderr, the server speaks, a signal comes.
 * One poll() waits for all, so signals are turned into bytes in a pipe (a signal between the check and the
 * wait would be lost otherwise; pselect() would do as well, but not with descriptors over 1023, which a
 * build with many inherited ones can have).
 *
 * There is a second child while a backup runs. What ends first, and well, is the compile; whatever else
 * becomes of the backup, the first attempt goes on as if there had been none. A backup's files are in place
 * or gone before anybody can see that gethost has ended.
 *
 * A signal that ends gethost must be seen by make as one: gethost passes it on, waits for the child, and
 * ends by the same signal. The terminal's signals go to the whole group, and reach the child without us.
 *
 * Not to be known here: what the command does, and the words in which the server speaks.
 */
#include "gethost.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* SIGPIPE is among them so that a closed connection cannot end gethost; it is not passed on. */
static const int caught[] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE};
static struct sigaction inherited_action[ARRAY_LENGTH(caught)];
static sigset_t inherited_mask;

static int signal_pipe[2] = {-1, -1};

struct signal_note {
    unsigned char number;
    unsigned char from_process; /* not from the terminal, so the child did not get it */
};

static void note_signal(int number, siginfo_t *info, void *context)
{
    (void)context;
    int saved = errno;
    struct signal_note note = {(unsigned char)number, info->si_code == SI_USER ||
                                                          info->si_code == SI_QUEUE};
    ssize_t written = write(signal_pipe[1], &note, sizeof note); /* full: enough notes are in it */
    (void)written;
    errno = saved;
}

_Noreturn static void cannot_start(const char *program)
{
    say("cannot start %s: %s", program, strerror(errno));
    _exit(126);
}

/* What was ignored, or blocked, stays so: nohup and background jobs rely on it. SIGCHLD is ours. */
static void catch_signals(void)
{
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_UNBLOCK, &child, &inherited_mask);
    struct sigaction action = {.sa_sigaction = note_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigfillset(&action.sa_mask);
    for (size_t i = 0; i < ARRAY_LENGTH(caught); i++) {
        sigaction(caught[i], NULL, &inherited_action[i]);
        if (caught[i] == SIGCHLD || inherited_action[i].sa_handler != SIG_IGN)
            sigaction(caught[i], &action, NULL);
    }
}

void run_restore_signals(void)
{
    for (size_t i = 0; i < ARRAY_LENGTH(caught); i++)
        sigaction(caught[i], &inherited_action[i], NULL);
    sigprocmask(SIG_SETMASK, &inherited_mask, NULL);
}

_Noreturn void run_instead(char **argv, char **environment)
{
    extern char **environ;
    environ = environment;
    execvp(argv[0], argv);
    int missing = errno == ENOENT ? 127 : 126;
    say("cannot run %s: %s", argv[0], strerror(errno));
    _exit(missing);
}

_Noreturn void run_end_by_signal(int signal_number)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none); /* the child's core is the interesting one */
    signal(signal_number, SIG_DFL);
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, signal_number);
    sigprocmask(SIG_UNBLOCK, &one, NULL);
    raise(signal_number);
    _exit(128 + signal_number);
}

/* ---- the first attempt and its backup ---- */

struct run {
    char **argv;
    const struct command *command;
    struct server *server;
    struct attempt first, backup;
    struct backup_files files; /* of the backup */
    bool backup_given_up;
    bool backup_went_by_mark; /* once is no reason to blame its host */
    bool backup_counts; /* it ended well, and the first attempt has been asked to end */
    bool revoked;
    char reason[REASON_SIZE]; /* of the revocation */
    int ended_by;             /* the signal that ends gethost, or 0 */
};

static void say_of_backup(const struct run *run, const char *what, const char *why)
{
    const struct lease *lease = &run->backup.lease;
    if (verbose)
        say("backup %s on %s %s%s", lease->id, lease->host, what, why);
}

static bool first_goes_on(const struct run *run)
{
    return attempt_is_running(&run->first) && run->first.due_ms < 0;
}

static void start_backup(struct run *run)
{
    const struct lease *lease = &run->server->backup;
    bool wanted = run->server->request->backup && first_goes_on(run) && !run->first.spilled;
    if (wanted && !run->backup.process) {
        char **argv = backup_command(run->argv, run->command, &run->files);
        run->backup = NO_ATTEMPT;
        run->backup.is_backup = run->backup.leaves_files = true;
        run->backup_given_up = false;
        if (argv && attempt_start(&run->backup, argv, lease, true)) {
            if (verbose)
                say("backup %s: %s (%s port %d, %d slots)", lease->id, lease->host, lease->address,
                    lease->port, lease->slots);
            return;
        }
    }
    if (wanted && run->backup.process && run->backup_given_up)
        return; /* settle_backup() starts it when the one before is over */
    if (verbose)
        say("backup %s on %s is not started", lease->id, lease->host);
    server_backup_dropped(run->server);
}

static void give_up_backup(struct run *run, const char *why)
{
    if (!run->backup.process || run->backup_given_up || run->backup_counts)
        return;
    run->backup_given_up = true;
    say_of_backup(run, "is given up: ", why);
    attempt_stop(&run->backup);
}

/* It is over. The server hears of that only where the first attempt goes on: else it hears of that one. */
static void settle_backup(struct run *run)
{
    struct attempt *backup = &run->backup;
    if (!run->backup_given_up && attempt_ended_well(backup)) {
        run->backup_counts = true;
        say_of_backup(run, "has ended first, and well", "");
        run->first.leaves_files = true;
        attempt_stop(&run->first);
        return;
    }
    backup_remove(&run->files);
    bool next_is_offered =
        run->server->has_backup && strcmp(run->server->backup.id, backup->lease.id) != 0;
    bool exited = WIFEXITED(backup->status);
    int status = exited ? WEXITSTATUS(backup->status) : 0;
    char reason[REASON_SIZE] = "a signal ended it";
    if (exited)
        snprintf(reason, sizeof reason, "distcc exit status %d", status);
    if (!run->backup_given_up)
        say_of_backup(run, "is of no use: ", reason);
    bool doubtful = attempt_went_by_mark(backup) && !run->backup_went_by_mark;
    run->backup_went_by_mark |= doubtful;
    if (!run->backup_given_up && !doubtful &&
        command_judge(run->command, status) == VERDICT_HOST_FAILED)
        server_backup_failed(run->server, status, reason);
    else if (first_goes_on(run) && !next_is_offered)
        server_backup_dropped(run->server);
    free(backup->text);
    *backup = NO_ATTEMPT;
    if (next_is_offered)
        start_backup(run);
}

static void take_lease_back(struct run *run, const char *reason)
{
    give_up_backup(run, reason);
    if (run->revoked || run->backup_counts)
        return;
    run->revoked = true;
    snprintf(run->reason, sizeof run->reason, "%s", reason);
    attempt_stop(&run->first);
}

static void hear_server(struct run *run)
{
    for (;;) {
        char reason[REASON_SIZE];
        switch (server_event(run->server, reason)) {
        case LEASE_REVOKED:
            take_lease_back(run, reason);
            break;
        case LEASE_BACKUP_OFFERED:
            start_backup(run);
            break;
        case LEASE_BACKUP_ENDED:
            give_up_backup(run, reason);
            break;
        default:
            return;
        }
    }
}

/* Note the last of SIGINT, SIGTERM, SIGHUP and SIGQUIT that came, and pass it on. */
static void read_signals(struct run *run)
{
    struct signal_note note;
    while (read(signal_pipe[0], &note, sizeof note) == sizeof note) {
        if (note.number == SIGCHLD || note.number == SIGPIPE)
            continue;
        run->ended_by = note.number;
        if (note.from_process && attempt_is_running(&run->first))
            kill(run->first.process, note.number);
        attempt_give_time_to_end(&run->first);
        give_up_backup(run, "a signal ends gethost");
    }
}

/* The earlier of two times, of which -1 is never. */
static int64_t earlier_ms(int64_t one_ms, int64_t other_ms)
{
    return one_ms < 0 || (other_ms >= 0 && other_ms < one_ms) ? other_ms : one_ms;
}

static int time_left_ms(int64_t due_ms)
{
    int64_t left_ms = due_ms - now_ms();
    return due_ms < 0 ? -1 : left_ms > 0 ? (int)left_ms : 0;
}

/* Wait for something to happen, and see to it; but for the end of an attempt, which is to be looked for. */
static void watch(struct run *run)
{
    struct attempt *first = &run->first, *backup = &run->backup;
    struct pollfd watched[] = {
        {.fd = signal_pipe[0], .events = POLLIN},
        {.fd = -1}, /* poll() skips it */
        {.fd = first->text_fd, .events = POLLIN},
        {.fd = backup->text_fd, .events = POLLIN},
    };
    watched[1].fd = server_fd(run->server, &watched[1].events);
    int64_t lease_due_ms = server_due_ms(run->server);
    int64_t due_ms = earlier_ms(lease_due_ms, earlier_ms(first->due_ms, backup->due_ms));
    if (poll(watched, ARRAY_LENGTH(watched), time_left_ms(due_ms)) < 0)
        return; /* a signal: its note is there the next time */
    read_signals(run);
    if (watched[2].revents)
        attempt_take_text(first);
    if (watched[3].revents)
        attempt_take_text(backup);
    if (first->spilled || backup->spilled) /* one text would be shown in part, and then the other's */
        give_up_backup(run, "the compiler has too much to say");
    if (watched[1].revents || (lease_due_ms >= 0 && lease_due_ms <= now_ms()))
        hear_server(run);
}

/* The attempt that counts, its files in place. No signal may come in between. */
static const struct attempt *settle(struct run *run, struct outcome *outcome)
{
    if (!run->backup_counts)
        return &run->first;
    bool first_counts = run->ended_by || attempt_ended_well(&run->first);
    if (!first_counts && backup_keep(&run->files)) {
        snprintf(outcome->backup_id, sizeof outcome->backup_id, "%s", run->backup.lease.id);
        return &run->backup;
    }
    if (!first_counts) {
        outcome->revoked = outcome->backup_is_no_use = true;
        outcome->signal = SIGTERM; /* however the first attempt took that: its end is not the command's */
        snprintf(outcome->reason, sizeof outcome->reason, "its backup's files cannot be put in place (%s)",
                 strerror(errno));
    }
    backup_remove(&run->files);
    return &run->first;
}

struct outcome run_with_lease(char **argv, const struct command *command, struct server *server,
                              bool keep_text)
{
    struct run run = {.argv = argv,
                      .command = command,
                      .server = server,
                      .first = NO_ATTEMPT,
                      .backup = NO_ATTEMPT};
    if (!private_pipe(signal_pipe))
        cannot_start(argv[0]);
    catch_signals();
    if (!attempt_start(&run.first, argv, &server->lease, keep_text))
        cannot_start(argv[0]);
    for (;;) {
        attempt_look_at(&run.first);
        attempt_look_at(&run.backup);
        if (!attempt_is_running(&run.first))
            give_up_backup(&run, "the first attempt has ended");
        if (run.backup.process && attempt_is_over(&run.backup) && !run.backup_counts)
            settle_backup(&run);
        if (attempt_is_over(&run.first) && attempt_is_over(&run.backup))
            break;
        watch(&run);
    }
    attempt_take_text(&run.first);
    attempt_end_text(&run.first);

    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL); /* one that comes after this read ends us in run_restore_signals */
    read_signals(&run);
    struct outcome outcome = {.revoked = run.revoked};
    snprintf(outcome.reason, sizeof outcome.reason, "%s", run.reason);
    const struct attempt *counts = settle(&run, &outcome);
    run_restore_signals();
    close(signal_pipe[0]);
    close(signal_pipe[1]);
    if (run.ended_by) {
        server_close(server);
        write_all(STDERR_FILENO, counts->text, counts->text_length);
        run_end_by_signal(run.ended_by);
    }
    outcome.wall_s = counts->wall_s;
    outcome.cpu_s = counts->cpu_s;
    outcome.went_by_mark = !outcome.revoked && attempt_went_by_mark(counts);
    outcome.text = counts->text;
    outcome.text_length = counts->text_length;
    if (WIFEXITED(counts->status))
        outcome.exit_status = WEXITSTATUS(counts->status);
    else if (WIFSIGNALED(counts->status))
        outcome.signal = WTERMSIG(counts->status);
    return outcome;
}
