/* A line to be sent to host-server, as docs/protocol.md defines it: a verb, and then key=value
 * words with percent-encoded values. */
#ifndef GETHOST_LINE_H
#define GETHOST_LINE_H

#include <stddef.h>

enum { LINE_SIZE = 8192 }; /* of the longest line of the protocol, in either direction */

struct line {
    size_t length; /* without the newline, which is text[length] */
    char text[LINE_SIZE];
};

void line_start(struct line *, const char *verb);

/* Add " key=value". A value that does not fit is left out with its key: every key is optional. */
void line_add(struct line *, const char *key, const char *value);

/* The same with a formatted value of at most 63 characters. */
void line_add_format(struct line *, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
