/* The files of a backup: a second run of the same compile, at the same time, on another host. */
#ifndef GETHOST_BACKUP_H
#define GETHOST_BACKUP_H

#include <stdbool.h>
#include <stddef.h>

#include "outputs.h"

struct backup_files {
    size_t count;
    struct {
        const char *final;     /* part of a word of the first attempt's argv */
        const char *temporary; /* part of a word of the backup's argv */
    } file[2];                 /* in the order in which they are renamed */
};

/* The command as the backup runs it: with temporary names for its outputs, which must be known.
 * Returns NULL if memory is short. */
char **backup_command(char **argv, const struct outputs *, struct backup_files *);

/* Rename the backup's files to their final names. Returns false, with errno set, if one of them
 * could not be renamed. */
bool backup_keep_files(const struct backup_files *);

void backup_remove_files(const struct backup_files *);

#endif
