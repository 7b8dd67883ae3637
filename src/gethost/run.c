/* The child: started, watched together with the lease, and ended.
 *
 * Two things can happen while a compile runs: the child changes state, or the server speaks. One poll()
 * waits for both, so signals are turned into bytes in a pipe (a signal between the check and the wait
 * would be lost otherwise; pselect() would do as well, but not with descriptors over 1023, which a build
 * with many inherited ones can have).
 *
 * The child gets what gethost was given: signal mask, dispositions, and every descriptor. Its stderr alone
 * is different, and only when asked for: a preprocessor's warnings come before distcc knows whether the
 * host will do its work, and would be shown again by the next attempt. So they are kept back until the
 * attempt counts.
 *
 * A signal that ends gethost must be seen by make as one: gethost passes it on, waits for the child, and
 * ends by the same signal. The terminal's signals go to the whole group, and reach the child without us.
 *
 * Not to be known here: what the command is, and what the server's words mean.
 */
#include "gethost.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

enum {
    STOP_MS = 2000,        /* for the child to end after it was asked to; then it is killed */
    TEXT_MAX = 512 * 1024, /* more is not kept back: gethost is to stay small */
};

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

static void make_pipe(int ends[2])
{
    if (pipe(ends) != 0) {
        say("cannot make a pipe: %s", strerror(errno));
        _exit(126);
    }
    for (int i = 0; i < 2; i++) {
        ends[i] = private_fd(ends[i]);
        (void)fcntl(ends[i], F_SETFL, O_NONBLOCK);
    }
}

/* What was ignored, or blocked, stays so: nohup and background jobs rely on it. SIGCHLD is ours. */
static void catch_signals(void)
{
    make_pipe(signal_pipe);
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

static void restore_signals(void)
{
    for (size_t i = 0; i < ARRAY_LENGTH(caught); i++)
        sigaction(caught[i], &inherited_action[i], NULL);
    sigprocmask(SIG_SETMASK, &inherited_mask, NULL);
}

void run_die_with(int parent_pid)
{
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGTERM);
#endif
    if (getppid() != parent_pid) /* it died before we could ask to be told */
        _exit(128 + SIGTERM);
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

static pid_t start(char **argv, char **environment, int stderr_fd)
{
    sigset_t all, before;
    sigfillset(&all);
    /* Until the child has its own dispositions, a signal to it would write into our pipe. */
    sigprocmask(SIG_SETMASK, &all, &before);
    int parent_pid = (int)getpid();
    pid_t child = fork();
    if (child == 0) {
        if (stderr_fd >= 0)
            dup2(stderr_fd, STDERR_FILENO);
        run_die_with(parent_pid);
        restore_signals();
        run_instead(argv, environment);
    }
    int error = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (child < 0) {
        say("cannot start %s: %s", argv[0], strerror(error));
        _exit(126);
    }
    return child;
}

static double cpu_of_children_s(void)
{
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void take_text(int fd, struct outcome *outcome)
{
    char chunk[4096];
    ssize_t length;
    while ((length = read(fd, chunk, sizeof chunk)) > 0) {
        size_t wanted = outcome->text_length + (size_t)length;
        char *text = wanted <= TEXT_MAX ? realloc(outcome->text, wanted) : NULL;
        if (text) {
            memcpy(text + outcome->text_length, chunk, (size_t)length);
            outcome->text = text;
            outcome->text_length = wanted;
        } else {
            write_all(STDERR_FILENO, outcome->text, outcome->text_length);
            write_all(STDERR_FILENO, chunk, (size_t)length);
            outcome->text_length = 0;
        }
    }
}

/* The last of SIGINT, SIGTERM, SIGHUP and SIGQUIT that came, or `before`; passed on to the child, if
 * there still is one. */
static int read_signals(pid_t child, int before)
{
    struct signal_note note;
    while (read(signal_pipe[0], &note, sizeof note) == sizeof note) {
        if (note.number == SIGCHLD || note.number == SIGPIPE)
            continue;
        before = note.number;
        if (note.from_process && child > 0)
            kill(child, before);
    }
    return before;
}

/* Until the earlier of two times, of which -1 is never. */
static int time_left_ms(int64_t one_ms, int64_t other_ms)
{
    int64_t first_ms = one_ms < 0 || (other_ms >= 0 && other_ms < one_ms) ? other_ms : one_ms;
    int64_t left_ms = first_ms - now_ms();
    return first_ms < 0 ? -1 : left_ms > 0 ? (int)left_ms : 0;
}

struct outcome run_with_lease(char **argv, char **environment, struct server *server, bool keep_text)
{
    struct outcome outcome = {0};
    int text_pipe[2] = {-1, -1};
    catch_signals();
    if (keep_text) {
        make_pipe(text_pipe);
        (void)fcntl(text_pipe[1], F_SETFL, 0); /* this end is the child's, which expects to wait */
    }
    double cpu_before_s = cpu_of_children_s();
    int64_t start_ms = now_ms(), kill_ms = -1;
    pid_t child = start(argv, environment, text_pipe[1]);
    if (keep_text)
        close(text_pipe[1]);

    int status = 0, ended_by = 0;
    bool open_text = keep_text;
    while (waitpid(child, &status, WNOHANG) == 0) {
        struct pollfd watched[] = {
            {.fd = signal_pipe[0], .events = POLLIN},
            {.fd = -1}, /* poll() skips it */
            {.fd = open_text ? text_pipe[0] : -1, .events = POLLIN},
        };
        watched[1].fd = server_fd(server, &watched[1].events);
        int64_t due_ms = server_due_ms(server);
        if (kill_ms >= 0 && kill_ms <= now_ms()) {
            kill(child, SIGKILL);
            kill_ms = now_ms() + STOP_MS;
        }
        if (poll(watched, ARRAY_LENGTH(watched), time_left_ms(kill_ms, due_ms)) < 0)
            continue; /* a signal: its note is there the next time */
        ended_by = read_signals(child, ended_by);
        if (watched[2].revents) {
            take_text(text_pipe[0], &outcome);
            open_text = !(watched[2].revents & POLLHUP);
        }
        bool due = watched[1].revents || (due_ms >= 0 && due_ms <= now_ms());
        if (due && server_event(server, outcome.reason) == LEASE_REVOKED && !outcome.revoked) {
            outcome.revoked = true;
            kill(child, SIGTERM);
        }
        if (kill_ms < 0 && (ended_by || outcome.revoked))
            kill_ms = now_ms() + STOP_MS;
    }

    outcome.wall_s = (double)(now_ms() - start_ms) / 1e3;
    outcome.cpu_s = cpu_of_children_s() - cpu_before_s;
    if (keep_text) {
        take_text(text_pipe[0], &outcome);
        close(text_pipe[0]);
    }
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL); /* one that comes after this read ends us in restore_signals */
    ended_by = read_signals(0, ended_by);
    restore_signals();
    close(signal_pipe[0]);
    close(signal_pipe[1]);
    if (ended_by) {
        server_close(server);
        write_all(STDERR_FILENO, outcome.text, outcome.text_length);
        run_end_by_signal(ended_by);
    }
    if (WIFEXITED(status))
        outcome.exit_status = WEXITSTATUS(status);
    else if (WIFSIGNALED(status))
        outcome.signal = WTERMSIG(status);
    return outcome;
}
