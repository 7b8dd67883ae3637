/* The id of a compiler, worked out from its parts. */
#ifndef GETHOST_ID_PARTS_H
#define GETHOST_ID_PARTS_H

#include <stdbool.h>

#include "compiler.h"
#include "stamps.h"

enum id_result {
    ID_FOUND,
    ID_NONE,     /* it has none: `reason` says why */
    ID_HANGS,    /* the same, and it took long to find out */
    ID_CHANGING, /* the same, but only because its files change now */
};

/* Find the compiler that the word of a command names, and fill in all that is known of it. `stamps`
 * gets the files that the answer depends on. Takes a few milliseconds for gcc, some 100 ms for
 * clang, and a few seconds at most. */
enum id_result id_work_out(const char *word, struct compiler *, struct stamps *);

#endif
