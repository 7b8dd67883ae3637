/* The state of files, by which one can tell later whether they have changed.
 *
 * That a file does not exist is a state, too.
 */
#ifndef GETHOST_STAMPS_H
#define GETHOST_STAMPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stamp {
    const char *path;
    bool exists; /* then the rest is valid; symbolic links are followed */
    uint64_t device, inode;
    int64_t size, modified_ns, changed_ns;
};

enum { STAMPS_MAX = 200 };

struct stamps {
    struct stamp item[STAMPS_MAX];
    size_t count;
};

/* Note the state of a file, unless it is noted already. Returns false if there is no room, or
 * memory is short. */
bool stamps_add(struct stamps *, const char *path);

/* Is the file as it was? Are all of them? */
bool stamp_is_current(const struct stamp *);
bool stamps_are_current(const struct stamps *);

#endif
