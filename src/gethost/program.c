/* Looks up programs as execvp() does, without running them. */
#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int status_of(const char *path)
{
    struct stat status;
    if (stat(path, &status) != 0)
        return errno == EACCES ? 126 : 127;
    return S_ISREG(status.st_mode) && access(path, X_OK) == 0 ? 0 : 126;
}

int program_missing(const char *program)
{
    if (strchr(program, '/'))
        return status_of(program);
    const char *path = getenv("PATH");
    if (!path)
        path = "/usr/bin:/bin";
    int missing = 127;
    while (*program) {
        size_t length = strcspn(path, ":");
        char candidate[4096];
        int written = snprintf(candidate, sizeof candidate, "%.*s%s%s", (int)length, path,
                               length ? "/" : "", program);
        if (written > 0 && (size_t)written < sizeof candidate) {
            int status = status_of(candidate);
            if (status == 0)
                return 0;
            if (status == 126)
                missing = 126;
        }
        if (!path[length])
            break;
        path += length + 1;
    }
    return missing;
}
