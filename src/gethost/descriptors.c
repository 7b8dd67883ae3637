/* File descriptors that the command must not inherit, and waiting for them. See descriptors.h. */
#define _GNU_SOURCE
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "clock.h"

int private_fd(int fd)
{
    if (fd >= 0 && fd <= STDERR_FILENO) { /* gethost was started with some of 0, 1 and 2 closed */
        int higher = fcntl(fd, F_DUPFD, STDERR_FILENO + 1);
        close(fd);
        fd = higher;
    }
    if (fd >= 0)
        (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

bool private_pipe(int ends[2])
{
    if (pipe(ends) != 0)
        return false;
    for (int i = 0; i < 2; i++) {
        ends[i] = private_fd(ends[i]);
        (void)fcntl(ends[i], F_SETFL, O_NONBLOCK);
    }
    return true;
}

void write_all(int fd, const char *data, size_t length)
{
    while (length) {
        ssize_t written = write(fd, data, length);
        if (written >= 0) {
            data += written;
            length -= (size_t)written;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            struct pollfd watched = {.fd = fd, .events = POLLOUT};
            (void)poll(&watched, 1, -1);
        } else if (errno != EINTR) {
            return;
        }
    }
}

bool wait_for_fd(int fd, short events, int64_t deadline_ms)
{
    struct pollfd watched = {.fd = fd, .events = events};
    for (;;) {
        int result = poll(&watched, 1, left_ms(deadline_ms));
        if (result > 0)
            return true;
        if (result == 0 || errno != EINTR)
            return false;
    }
}
