/* Asking a program: running it, and reading what it prints, within limits. See query.h.
 *
 * The program may hang, print without end, or leave processes behind that hold its output open.
 * So it has a process group of its own, which is killed in the end, however that comes. A signal
 * may end gethost meanwhile; an alarm, which survives exec, then ends the program.
 *
 * Its exit status does not count: the answer has to make sense in any case.
 *
 * This file does not know what is asked, or of which program.
 */
#define _GNU_SOURCE
#include "query.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "clock.h"
#include "descriptors.h"

enum { ALARM_S = 10 }; /* later than any deadline */

_Noreturn static void run_program(char *const argv[], const char *setting, int output, pid_t parent)
{
    (void)setpgid(0, 0);
    die_with_parent(parent);
    (void)alarm(ALARM_S);
    int nothing = open("/dev/null", O_RDONLY);
    dup2(nothing, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    (void)fcntl(STDOUT_FILENO, F_SETFL, 0);
    (void)setenv("LC_ALL", "C", 1);
    (void)unsetenv("LANGUAGE");
    if (setting)
        (void)putenv(strdup(setting));
    execv(argv[0], argv);
    _exit(127);
}

static enum query_result read_answer(int output, int64_t deadline_ms, char answer[ANSWER_SIZE])
{
    size_t length = 0;
    answer[0] = 0;
    for (;;) {
        if (!wait_for_fd(output, POLLIN, deadline_ms))
            return QUERY_TOO_LATE;
        ssize_t count = read(output, answer + length, ANSWER_SIZE - 1 - length);
        if (count < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (count <= 0)
            return QUERY_ANSWERED;
        length += (size_t)count;
        answer[length] = 0;
        if (length == ANSWER_SIZE - 1)
            return QUERY_TOO_LONG;
    }
}

enum query_result query(char *const argv[], const char *setting, int64_t deadline_ms,
                        char answer[ANSWER_SIZE])
{
    int output[2];
    if (!private_pipe(output))
        return QUERY_NOT_ASKED;
    pid_t parent = getpid(), child = fork();
    if (child == 0)
        run_program(argv, setting, output[1], parent);
    close(output[1]);
    enum query_result result = QUERY_NOT_ASKED;
    if (child > 0) {
        (void)setpgid(child, child); /* the child does it, too: whichever is first */
        result = read_answer(output[0], deadline_ms, answer);
        kill(-child, SIGKILL);
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    close(output[0]);
    return result;
}
