/* The files that a compile writes. */
#ifndef GETHOST_OUTPUTS_H
#define GETHOST_OUTPUTS_H

#include <stdbool.h>
#include <stddef.h>

/* Where a command names a file: in argv[word], from byte `from` on. Word 0: nowhere. */
struct file_name {
    size_t word, from;
};

struct outputs {
    /* The compile writes these files and no others. So it can run twice at the same time, if the
     * second run uses other names for them. */
    bool are_known;
    struct file_name object, dependencies;
};

/* Find the outputs of a compile of `source` by its own command line. */
struct outputs outputs_of(char **argv, const char *source);

#endif
