/* One run of the command on one host: a child, its stderr, and its end.
 *
 * The child gets what gethost was given: signal mask, signal handling, and every descriptor. Only
 * its stderr can differ. A preprocessor prints its warnings before distcc knows whether the host
 * works, and the next attempt would print them again. So stderr is kept back until the attempt
 * counts.
 *
 * A backup runs beside the first attempt, which must not notice. So it has no stdin, no stdout,
 * and a session of its own. The session also serves to end all of it: distcc does not wait for
 * its preprocessor when it gives up or is ended. The preprocessor has a process group of its own,
 * and would later write a dependency file that gethost has removed. So everything left in the
 * session is killed. If gethost will remove or replace an attempt's files, the attempt is over
 * only when every process that could write them has closed its stderr.
 *
 * This file does not know why an attempt is stopped, or which others run.
 */
#define _GNU_SOURCE
#include "attempt.h"

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
#endif

#include "child.h"
#include "clock.h"
#include "descriptors.h"
#include "door.h"
#include "environment.h"

enum {
    STOP_MS = 2000,        /* from asking a child to end to killing it */
    TEXT_MAX = 512 * 1024, /* keep back no more than this, so that gethost stays small */
};

/* ---- its start ---- */

static void start_session(void)
{
    (void)setsid();
    int nothing = open("/dev/null", O_RDWR);
    dup2(nothing, STDIN_FILENO);
    dup2(nothing, STDOUT_FILENO);
    if (nothing > STDERR_FILENO)
        close(nothing);
}

/* `stderr_fd`: -1 leaves stderr as it is. */
_Noreturn static void run_child(bool is_backup, int stderr_fd, pid_t parent, char **argv,
                                char **environment)
{
    if (is_backup)
        start_session();
    if (stderr_fd >= 0)
        dup2(stderr_fd, STDERR_FILENO);
    die_with_parent(parent);
    restore_signals();
    become_command(argv, environment);
}

bool attempt_start(struct attempt *attempt, char **argv, const struct compiler *compiler,
                   const struct lease *lease, bool keep_text)
{
    char **environment = environment_for_lease(lease);
    if (!door_use(lease->door, compiler, &argv, &environment))
        return false;
    int text[2] = {-1, -1};
    if (keep_text && !private_pipe(text))
        return false;
    if (keep_text)
        (void)fcntl(text[1], F_SETFL, 0); /* the child expects writing to wait */
    environment_remove_backoff(lease);
    attempt->lease = *lease;
    attempt->start_ms = now_ms();

    sigset_t all, before;
    sigfillset(&all);
    /* Before the child restores its signal handling, a signal to it would look like one to us. */
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t parent = getpid(), child = fork();
    if (child == 0)
        run_child(attempt->is_backup, text[1], parent, argv, environment);
    int error = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (keep_text)
        close(text[1]);
    if (child > 0) {
        attempt->process = child;
        attempt->stderr_fd = text[0];
    } else if (keep_text) {
        close(text[0]);
    }
    errno = error;
    return child > 0;
}

/* ---- its state ---- */

bool attempt_is_running(const struct attempt *attempt)
{
    return attempt->process && !attempt->has_ended;
}

bool attempt_is_over(const struct attempt *attempt)
{
    return !attempt_is_running(attempt) && !(attempt->leaves_files && attempt->stderr_fd >= 0);
}

bool attempt_succeeded(const struct attempt *attempt)
{
    return attempt->has_ended && WIFEXITED(attempt->status) && WEXITSTATUS(attempt->status) == 0;
}

/* gethost removes the mark before distcc starts. But another distcc may fail and leave a new mark
 * before this distcc looks for it. Then this one fails at once.
 *
 * The limit on "at once" is generous. A machine with many gethosts is slow, and a virtual machine
 * may stand still for most of a second. If distcc really failed with the host within that time,
 * this costs one more attempt. A limit that is too short would blame a working host. */
bool attempt_hit_backoff(const struct attempt *attempt)
{
    enum { DISTCC_NO_HOSTS = 116 };
    const double at_once_s = 1.0;
    return attempt->has_ended && WIFEXITED(attempt->status) &&
           WEXITSTATUS(attempt->status) == DISTCC_NO_HOSTS && attempt->wall_s < at_once_s &&
           environment_has_backoff(&attempt->lease);
}

/* ---- what it writes to stderr ---- */

void attempt_close_text(struct attempt *attempt)
{
    if (attempt->stderr_fd >= 0)
        close(attempt->stderr_fd);
    attempt->stderr_fd = -1;
}

void attempt_read_text(struct attempt *attempt)
{
    char chunk[4096];
    ssize_t length = -1;
    while (attempt->stderr_fd >= 0 &&
           (length = read(attempt->stderr_fd, chunk, sizeof chunk)) > 0) {
        size_t wanted = attempt->text_length + (size_t)length;
        char *text = wanted <= TEXT_MAX ? realloc(attempt->text, wanted) : NULL;
        if (text) {
            memcpy(text + attempt->text_length, chunk, (size_t)length);
            attempt->text = text;
            attempt->text_length = wanted;
            continue;
        }
        if (!attempt->is_backup) { /* a backup's text is shown only if the backup counts */
            write_all(STDERR_FILENO, attempt->text, attempt->text_length);
            write_all(STDERR_FILENO, chunk, (size_t)length);
        }
        attempt->text_length = 0;
        attempt->text_overflowed = true;
    }
    if (length == 0)
        attempt_close_text(attempt);
}

/* ---- its end ---- */

/* On systems without /proc, gethost waits for these processes instead. */
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

/* If the backup's own process has ended, kill the rest of its session. This must come before
 * wait4(), after which the system may give its process id to another process. */
static void kill_rest_of_session(struct attempt *backup)
{
    siginfo_t end = {0};
    if (waitid(P_PID, (id_t)backup->process, &end, WEXITED | WNOHANG | WNOWAIT) != 0 || !end.si_pid)
        return;
    attempt_read_text(backup);
    if (backup->stderr_fd >= 0)
        kill_session(backup->process);
}

static double cpu_time_s(const struct rusage *used)
{
    return (double)(used->ru_utime.tv_sec + used->ru_stime.tv_sec) +
           (double)(used->ru_utime.tv_usec + used->ru_stime.tv_usec) / 1e6;
}

static void send_signal(const struct attempt *attempt, int number)
{
    if (!attempt_is_running(attempt))
        return;
    /* To the whole group of a backup; but one that was just started may have no group yet. */
    if (!attempt->is_backup || kill(-attempt->process, number) != 0)
        kill(attempt->process, number);
}

void attempt_set_deadline(struct attempt *attempt)
{
    if (attempt_is_running(attempt) && attempt->kill_ms < 0)
        attempt->kill_ms = now_ms() + STOP_MS;
}

void attempt_stop(struct attempt *attempt)
{
    send_signal(attempt, SIGTERM);
    attempt_set_deadline(attempt);
}

void attempt_update(struct attempt *attempt)
{
    struct rusage used = {0};
    if (attempt_is_running(attempt) && attempt->is_backup)
        kill_rest_of_session(attempt);
    if (attempt_is_running(attempt) && wait4(attempt->process, &attempt->status, WNOHANG, &used)) {
        attempt->has_ended = true;
        attempt->wall_s = (double)(now_ms() - attempt->start_ms) / 1e3;
        attempt->cpu_s = cpu_time_s(&used);
        attempt->kill_ms = attempt_is_over(attempt) ? -1 : now_ms() + STOP_MS;
    }
    if (attempt->kill_ms < 0 || attempt->kill_ms > now_ms())
        return;
    send_signal(attempt, SIGKILL);
    if (!attempt_is_running(attempt))
        attempt_close_text(attempt); /* a process has it open that cannot be found, or killed */
    attempt->kill_ms = attempt_is_over(attempt) ? -1 : now_ms() + STOP_MS;
}
