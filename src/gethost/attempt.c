/* One run of the command on one host: a child, what it writes to stderr, and its end.
 *
 * The child gets what gethost was given: signal mask, dispositions, and every descriptor. Its stderr alone
 * is different, and only when asked for: a preprocessor's warnings come before distcc knows whether the
 * host will do its work, and would be shown again by the next attempt. So they are kept back until the
 * attempt counts.
 *
 * A backup runs beside the first attempt, which must not notice: it has no stdin and no stdout, and is a
 * session of its own. That is also how it is ended whole. distcc does not wait for its preprocessor when it
 * gives up or is ended; and that has a process group of its own, and would yet write a dependency file that
 * we have removed. So what is left of the session is killed; and an attempt whose files are to be removed
 * or replaced is not over before all have closed its stderr, who could still write them.
 *
 * Nothing here waits.
 *
 * Not to be known here: why an attempt is to end, and who else runs.
 */
#include "gethost.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <dirent.h>
#include <sys/prctl.h>
#endif

enum {
    STOP_MS = 2000,        /* for a child to end after it was asked to; then it is killed */
    TEXT_MAX = 512 * 1024, /* more is not kept back: gethost is to stay small */
};

void attempt_die_with(int parent_pid)
{
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGTERM);
#endif
    if (getppid() != parent_pid) /* it died before we could ask to be told */
        _exit(128 + SIGTERM);
}

/* ---- its beginning ---- */

static void set_apart(void)
{
    (void)setsid();
    int nothing = open("/dev/null", O_RDWR);
    dup2(nothing, STDIN_FILENO);
    dup2(nothing, STDOUT_FILENO);
    if (nothing > STDERR_FILENO)
        close(nothing);
}

bool attempt_start(struct attempt *attempt, char **argv, const struct lease *lease, bool keep_text)
{
    int text[2] = {-1, -1};
    if (keep_text && !private_pipe(text))
        return false;
    if (keep_text)
        (void)fcntl(text[1], F_SETFL, 0); /* this end is the child's, which expects to wait */
    environment_forget_backoff(lease);
    char **environment = environment_for_lease(lease);
    attempt->lease = *lease;
    attempt->start_ms = now_ms();

    sigset_t all, before;
    sigfillset(&all);
    /* Until the child has its own dispositions, a signal to it would be taken for one to us. */
    sigprocmask(SIG_SETMASK, &all, &before);
    int parent_pid = (int)getpid();
    pid_t child = fork();
    if (child == 0) {
        if (attempt->is_backup)
            set_apart();
        if (keep_text)
            dup2(text[1], STDERR_FILENO);
        attempt_die_with(parent_pid);
        run_restore_signals();
        run_instead(argv, environment);
    }
    int error = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (keep_text)
        close(text[1]);
    if (child > 0) {
        attempt->process = child;
        attempt->text_fd = text[0];
    } else if (keep_text) {
        close(text[0]);
    }
    errno = error;
    return child > 0;
}

/* ---- how it stands ---- */

bool attempt_is_running(const struct attempt *attempt)
{
    return attempt->process && !attempt->ended;
}

bool attempt_is_over(const struct attempt *attempt)
{
    return !attempt_is_running(attempt) && !(attempt->leaves_files && attempt->text_fd >= 0);
}

bool attempt_ended_well(const struct attempt *attempt)
{
    return attempt->ended && WIFEXITED(attempt->status) && WEXITSTATUS(attempt->status) == 0;
}

/* The mark of a failed host is removed before distcc starts, but another distcc that fails meanwhile may
 * leave a new one, in the moment before this one looks for it; then it gives up at once. That is generous:
 * a machine with many gethosts on it is slow, and a virtual one may stand still for most of a second. One
 * that did fail within that time costs an attempt more, but the other way round a sound host is blamed. */
bool attempt_went_by_mark(const struct attempt *attempt)
{
    enum { DISTCC_NO_HOSTS = 116 };
    const double at_once_s = 1.0;
    return attempt->ended && WIFEXITED(attempt->status) &&
           WEXITSTATUS(attempt->status) == DISTCC_NO_HOSTS && attempt->wall_s < at_once_s &&
           environment_has_backoff(&attempt->lease);
}

void attempt_end_text(struct attempt *attempt)
{
    if (attempt->text_fd >= 0)
        close(attempt->text_fd);
    attempt->text_fd = -1;
}

void attempt_take_text(struct attempt *attempt)
{
    char chunk[4096];
    ssize_t length = -1;
    while (attempt->text_fd >= 0 && (length = read(attempt->text_fd, chunk, sizeof chunk)) > 0) {
        size_t wanted = attempt->text_length + (size_t)length;
        char *text = wanted <= TEXT_MAX ? realloc(attempt->text, wanted) : NULL;
        if (text) {
            memcpy(text + attempt->text_length, chunk, (size_t)length);
            attempt->text = text;
            attempt->text_length = wanted;
            continue;
        }
        if (!attempt->is_backup) { /* whose text is shown when it counts, or not at all */
            write_all(STDERR_FILENO, attempt->text, attempt->text_length);
            write_all(STDERR_FILENO, chunk, (size_t)length);
        }
        attempt->text_length = 0;
        attempt->spilled = true;
    }
    if (length == 0)
        attempt_end_text(attempt);
}

/* ---- its end ---- */

/* Where there is no /proc, they are waited for. */
static void kill_session(pid_t leader)
{
#ifdef __linux__
    DIR *processes = opendir("/proc");
    for (struct dirent *entry; processes && (entry = readdir(processes));) {
        pid_t process = (pid_t)atoi(entry->d_name);
        if (process > 0 && getsid(process) == leader)
            kill(process, SIGKILL);
    }
    if (processes)
        closedir(processes);
#else
    (void)leader;
#endif
}

/* If the leader has ended; before wait4() says so, after which its number may be given to another. */
static void kill_what_is_left(struct attempt *backup)
{
    siginfo_t end = {0};
    if (waitid(P_PID, (id_t)backup->process, &end, WEXITED | WNOHANG | WNOWAIT) != 0 || !end.si_pid)
        return;
    attempt_take_text(backup);
    if (backup->text_fd >= 0)
        kill_session(backup->process);
}

static double cpu_s(const struct rusage *used)
{
    return (double)(used->ru_utime.tv_sec + used->ru_stime.tv_sec) +
           (double)(used->ru_utime.tv_usec + used->ru_stime.tv_usec) / 1e6;
}

void attempt_signal(const struct attempt *attempt, int number)
{
    /* A backup that has just been started may have no process group yet. */
    if (attempt_is_running(attempt) && !(attempt->is_backup && kill(-attempt->process, number) == 0))
        kill(attempt->process, number);
}

void attempt_give_time_to_end(struct attempt *attempt)
{
    if (attempt_is_running(attempt) && attempt->due_ms < 0)
        attempt->due_ms = now_ms() + STOP_MS;
}

void attempt_stop(struct attempt *attempt)
{
    attempt_signal(attempt, SIGTERM);
    attempt_give_time_to_end(attempt);
}

void attempt_look_at(struct attempt *attempt)
{
    struct rusage used = {0};
    if (attempt_is_running(attempt) && attempt->is_backup)
        kill_what_is_left(attempt);
    if (attempt_is_running(attempt) && wait4(attempt->process, &attempt->status, WNOHANG, &used) != 0) {
        attempt->ended = true;
        attempt->wall_s = (double)(now_ms() - attempt->start_ms) / 1e3;
        attempt->cpu_s = cpu_s(&used);
        attempt->due_ms = attempt_is_over(attempt) ? -1 : now_ms() + STOP_MS;
    }
    if (attempt->due_ms < 0 || attempt->due_ms > now_ms())
        return;
    attempt_signal(attempt, SIGKILL);
    if (!attempt_is_running(attempt))
        attempt_end_text(attempt); /* whoever has it left the session, or cannot be killed */
    attempt->due_ms = attempt_is_over(attempt) ? -1 : now_ms() + STOP_MS;
}
