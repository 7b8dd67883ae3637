/* Messages to the user. See say.h.
 *
 * They are about the farm, not about the source being compiled. ccache stores what a compile
 * writes to stderr and shows it again at every hit. It passes in UNCACHED_ERR_FD a descriptor for
 * text that it must not store, and gethost's messages go there.
 */
#define _GNU_SOURCE
#include "say.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "descriptors.h"

static bool verbose;

static int message_fd(void)
{
    const char *uncached = getenv("UNCACHED_ERR_FD");
    int fd = uncached && isdigit((unsigned char)*uncached) ? atoi(uncached) : STDERR_FILENO;
    return fcntl(fd, F_GETFD) >= 0 ? fd : STDERR_FILENO;
}

static void print_message(const char *format, va_list arguments)
{
    char line[1024] = "gethost: ";
    size_t room = sizeof line - 1, length = strlen(line);
    int written = vsnprintf(line + length, room - length, format, arguments);
    length = written < 0 ? length : strlen(line);
    line[length++] = '\n';
    write_all(message_fd(), line, length);
}

void say(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_message(format, arguments);
    va_end(arguments);
}

void say_verbosely(const char *format, ...)
{
    if (!verbose)
        return;
    va_list arguments;
    va_start(arguments, format);
    print_message(format, arguments);
    va_end(arguments);
}

_Noreturn void print_and_exit(const char *text)
{
    write_all(STDOUT_FILENO, text, strlen(text));
    _exit(0);
}

void say_be_verbose(void)
{
    verbose = true;
}

bool say_is_verbose(void)
{
    return verbose;
}
