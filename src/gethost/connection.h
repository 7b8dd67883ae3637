/* A TCP connection to host-server that carries lines. No function waits unless it has a
 * deadline. */
#ifndef GETHOST_CONNECTION_H
#define GETHOST_CONNECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "address.h"
#include "line.h"

struct connection {
    int fd;            /* -1: not connected */
    size_t start, end; /* of the bytes in `buffer` that were received and not returned yet */
    char buffer[LINE_SIZE];
};

/* Begin to connect. Returns 0 if it is connected, EINPROGRESS if that takes time, else an errno. */
int connection_begin(struct connection *, const struct address *);

/* The result of EINPROGRESS, once the socket is writable: 0 or an errno. */
int connection_error(const struct connection *);

/* Connect before the deadline. Returns false, with errno set, on failure. */
bool connection_open(struct connection *, const struct address *, int64_t deadline_ms);

/* Send the line. Returns false if the connection did not take all of it. */
bool connection_send(struct connection *, const struct line *);

enum received {
    RECEIVED_LINE,
    RECEIVED_NOTHING,  /* no complete line yet, or none before the deadline */
    RECEIVED_END,      /* the server closed the connection, or it broke */
    RECEIVED_NONSENSE, /* a line that is too long, or has a NUL in it */
};

/* Get the next line, without its end. It is valid, and may be changed, until the next call. */
enum received connection_next_line(struct connection *, char **line);
enum received connection_wait_for_line(struct connection *, int64_t deadline_ms, char **line);

/* Let `to` be the connection from now on. `from` is closed then. */
void connection_move(struct connection *to, struct connection *from);

/* Close it if it is open. The server still gets what was sent. */
void connection_close(struct connection *);

#endif
