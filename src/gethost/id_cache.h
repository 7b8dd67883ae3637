/* What is remembered about compilers from one compile to the next. */
#ifndef GETHOST_ID_CACHE_H
#define GETHOST_ID_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "compiler.h"
#include "notes.h"
#include "stamps.h"

struct id_cache {
    char directory[CACHE_DIRECTORY_SIZE + 16];
    uint64_t key; /* stands for the word of the command, and for all that decides what it means */
    int lock;     /* a descriptor; -1: not locked */
};

/* Find the place for what is remembered about the compiler that the word of a command names. False
 * if there is no place. */
bool id_cache_open(struct id_cache *, const char *word);

/* Read it. False if nothing is known, or if a file has changed since. */
bool id_cache_read(const struct id_cache *, struct compiler *);

/* The paths of the files that this depends on, one for each call; NULL at the end. `*entry`, at
 * first NULL, becomes the rest of them. */
const char *id_cache_next_file(const struct id_cache *, char **entry);

/* Write it, as valid until one of the files changes, and for `valid_s` seconds at most; 0: no
 * limit. False, with errno set, if it cannot be written. */
bool id_cache_write(const struct id_cache *, const struct compiler *, const struct stamps *,
                    int valid_s);

/* Wait until no other gethost works the same compiler out. A limit to the waiting keeps a stopped
 * one from stopping the others. */
void id_cache_lock(struct id_cache *);
void id_cache_unlock(struct id_cache *);

#endif
