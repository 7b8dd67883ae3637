/* gethost as a process between its parent and its child: signals, exec, and how it ends.
 *
 * The child must not notice gethost: it gets the signal mask and the signal handling that gethost
 * was started with.
 *
 * Signals become bytes in a pipe, so that one poll() can wait for them together with other
 * things. Without the pipe, a signal between the check for signals and the wait would be lost.
 * pselect() prevents that too, but not with descriptors above 1023, which a build with many
 * inherited descriptors can have.
 *
 * This file does not know what the child is, or what a signal should lead to.
 */
#define _GNU_SOURCE
#include "child.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "array.h"
#include "descriptors.h"
#include "say.h"

extern char **environ;

/* Catching SIGPIPE keeps a closed connection from ending gethost. */
static const int caught[] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE};
static struct sigaction inherited_action[ARRAY_LENGTH(caught)];
static sigset_t inherited_mask;
static int signal_pipe[2] = {-1, -1};

/* ---- in a child, or instead of having one ---- */

void die_with_parent(pid_t parent)
{
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGTERM);
#endif
    if (getppid() != parent) /* it ended before the call above */
        _exit(128 + SIGTERM);
}

_Noreturn void become_command(char **argv, char **environment)
{
    environ = environment;
    execvp(argv[0], argv);
    int status = errno == ENOENT ? 127 : 126;
    say("cannot run %s: %s", argv[0], strerror(errno));
    _exit(status);
}

/* ---- signals, while a child runs ---- */

static void write_to_pipe(int number, siginfo_t *info, void *context)
{
    (void)context;
    int saved = errno;
    struct caught_signal note = {
        .number = (unsigned char)number,
        .from_process = info->si_code == SI_USER || info->si_code == SI_QUEUE,
    };
    ssize_t written = write(signal_pipe[1], &note, sizeof note);
    (void)written; /* the pipe may be full, but then there are enough signals in it */
    errno = saved;
}

/* A signal that was ignored or blocked stays so, because nohup and background jobs rely on that.
 * SIGCHLD is the exception: gethost needs it. */
bool catch_signals(void)
{
    if (!private_pipe(signal_pipe))
        return false;
    sigset_t child_ends;
    sigemptyset(&child_ends);
    sigaddset(&child_ends, SIGCHLD);
    sigprocmask(SIG_UNBLOCK, &child_ends, &inherited_mask);
    struct sigaction action = {.sa_sigaction = write_to_pipe, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigfillset(&action.sa_mask);
    for (size_t i = 0; i < ARRAY_LENGTH(caught); i++) {
        sigaction(caught[i], NULL, &inherited_action[i]);
        if (caught[i] == SIGCHLD || inherited_action[i].sa_handler != SIG_IGN)
            sigaction(caught[i], &action, NULL);
    }
    return true;
}

int signals_fd(void)
{
    return signal_pipe[0];
}

bool next_signal(struct caught_signal *note)
{
    return read(signal_pipe[0], note, sizeof *note) == sizeof *note;
}

void restore_signals(void)
{
    for (size_t i = 0; i < ARRAY_LENGTH(caught); i++)
        sigaction(caught[i], &inherited_action[i], NULL);
    sigprocmask(SIG_SETMASK, &inherited_mask, NULL);
}

void stop_catching_signals(void)
{
    restore_signals();
    close(signal_pipe[0]);
    close(signal_pipe[1]);
}

_Noreturn void end_by_signal(int number)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none); /* the core file that helps is the child's */
    signal(number, SIG_DFL);
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, number);
    sigprocmask(SIG_UNBLOCK, &one, NULL);
    raise(number);
    _exit(128 + number);
}
