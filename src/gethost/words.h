/* The words of a command line, as distcc sees them. */
#ifndef GETHOST_WORDS_H
#define GETHOST_WORDS_H

#include <stdbool.h>
#include <stddef.h>

struct words {
    const char **item; /* ends with NULL; itself NULL if there are no words */
    size_t count, room;
};

/* Append the words of a NULL-terminated list: @FILE is replaced by the file's contents, and
 * -Wp,A,B by A and B. Returns false if an @FILE is too large for a compile, or memory is short. */
bool words_expand(struct words *, char **argv);

#endif
