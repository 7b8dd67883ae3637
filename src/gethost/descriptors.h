/* File descriptors that the command must not inherit, and waiting for them. */
#ifndef GETHOST_DESCRIPTORS_H
#define GETHOST_DESCRIPTORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Make `fd` close-on-exec and move it above 2. Returns the descriptor to use from then on.
 * Returns -1 if `fd` is -1, so that it can be wrapped around open() or socket(). */
int private_fd(int fd);

/* A non-blocking pipe with private ends. Returns false, with errno set, on failure. */
bool private_pipe(int ends[2]);

/* Write all data, also to a non-blocking descriptor. An error ends it silently. */
void write_all(int fd, const char *data, size_t length);

/* Wait until the descriptor is ready for the events of poll(). False: the deadline passed. */
bool wait_for_fd(int fd, short events, int64_t deadline_ms);

#endif
