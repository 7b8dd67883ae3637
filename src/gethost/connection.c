/* A TCP connection to host-server that carries lines. See connection.h.
 *
 * This file does not know what the lines mean, or which server it is.
 */
#define _GNU_SOURCE
#include "connection.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "array.h"
#include "descriptors.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS has SO_NOSIGPIPE instead */
#endif

/* ---- connecting ---- */

/* Make the kernel notice within 15 s that the server's machine or its network is gone. An idle
 * connection then costs one packet every 8 s. src/compilefarm/programs/dead_peer.py has the same
 * settings. */
static void notice_dead_peer(int fd)
{
    static const struct {
        int level, option, value;
    } settings[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},
#ifdef TCP_KEEPIDLE
        {IPPROTO_TCP, TCP_KEEPIDLE, 8},
#elif defined TCP_KEEPALIVE
        {IPPROTO_TCP, TCP_KEEPALIVE, 8}, /* macOS's name for it */
#endif
#ifdef TCP_KEEPINTVL
        {IPPROTO_TCP, TCP_KEEPINTVL, 2},
#endif
#ifdef TCP_KEEPCNT
        {IPPROTO_TCP, TCP_KEEPCNT, 3},
#endif
#ifdef TCP_USER_TIMEOUT
        {IPPROTO_TCP, TCP_USER_TIMEOUT, 12000},
#endif
#ifdef SO_NOSIGPIPE
        {SOL_SOCKET, SO_NOSIGPIPE, 1},
#endif
    };
    for (size_t i = 0; i < ARRAY_LENGTH(settings); i++)
        (void)setsockopt(fd, settings[i].level, settings[i].option, &settings[i].value,
                         sizeof settings[i].value);
}

int connection_begin(struct connection *connection, const struct address *address)
{
    connection->fd = private_fd(socket(address->any.ss_family, SOCK_STREAM, 0));
    connection->start = connection->end = 0;
    if (connection->fd < 0)
        return errno;
    (void)fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    notice_dead_peer(connection->fd);
    if (connect(connection->fd, (const struct sockaddr *)&address->any, address->length) == 0)
        return 0;
    return errno == EINTR ? EINPROGRESS : errno;
}

int connection_error(const struct connection *connection)
{
    int error = 0;
    socklen_t size = sizeof error;
    return getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

bool connection_open(struct connection *connection, const struct address *address,
                     int64_t deadline_ms)
{
    int error = connection_begin(connection, address);
    if (error == EINPROGRESS)
        error = wait_for_fd(connection->fd, POLLOUT, deadline_ms) ? connection_error(connection)
                                                                  : ETIMEDOUT;
    if (error) {
        connection_close(connection);
        errno = error;
    }
    return !error;
}

void connection_move(struct connection *to, struct connection *from)
{
    to->fd = from->fd;
    to->start = 0;
    to->end = from->end - from->start;
    memcpy(to->buffer, from->buffer + from->start, to->end);
    from->fd = -1;
}

void connection_close(struct connection *connection)
{
    if (connection->fd < 0)
        return;
    /* Closing with unread bytes would reset the connection, and our last line could be lost. */
    (void)shutdown(connection->fd, SHUT_WR);
    char *unread = connection->buffer;
    for (int i = 0; i < 8 && recv(connection->fd, unread, sizeof connection->buffer, 0) > 0; i++)
        ;
    close(connection->fd);
    connection->fd = -1;
}

/* ---- lines ---- */

/* The socket's empty send buffer takes a line at once. A server that does not even read counts as
 * lost. */
bool connection_send(struct connection *connection, const struct line *line)
{
    size_t length = line->length + 1; /* with its newline */
    return send(connection->fd, line->text, length, MSG_NOSIGNAL) == (ssize_t)length;
}

/* Take a complete line out of the buffer. Returns NULL if there is none. */
static char *take_line(struct connection *connection)
{
    char *line = connection->buffer + connection->start;
    char *newline = memchr(line, '\n', connection->end - connection->start);
    if (!newline)
        return NULL;
    connection->start += (size_t)(newline - line) + 1;
    if (newline > line && newline[-1] == '\r')
        newline--;
    *newline = 0;
    return line;
}

/* Receive more bytes into the buffer. Returns RECEIVED_LINE if there are new bytes. */
static enum received receive(struct connection *connection)
{
    memmove(connection->buffer, connection->buffer + connection->start,
            connection->end - connection->start);
    connection->end -= connection->start;
    connection->start = 0;
    size_t room = sizeof connection->buffer - connection->end;
    char *to = connection->buffer + connection->end;
    if (!room)
        return RECEIVED_NONSENSE;
    ssize_t length;
    do
        length = recv(connection->fd, to, room, 0);
    while (length < 0 && errno == EINTR);
    if (length < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return RECEIVED_NOTHING;
    if (length <= 0)
        return RECEIVED_END;
    if (memchr(to, 0, (size_t)length))
        return RECEIVED_NONSENSE;
    connection->end += (size_t)length;
    return RECEIVED_LINE;
}

enum received connection_next_line(struct connection *connection, char **line)
{
    while (!(*line = take_line(connection))) {
        enum received received = receive(connection);
        if (received != RECEIVED_LINE)
            return received;
    }
    return RECEIVED_LINE;
}

enum received connection_wait_for_line(struct connection *connection, int64_t deadline_ms,
                                       char **line)
{
    for (;;) {
        enum received received = connection_next_line(connection, line);
        if (received != RECEIVED_NOTHING)
            return received;
        if (!wait_for_fd(connection->fd, POLLIN, deadline_ms))
            return RECEIVED_NOTHING;
    }
}
