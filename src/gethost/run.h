/* The command, while its lease lasts. */
#ifndef GETHOST_RUN_H
#define GETHOST_RUN_H

#include <stdbool.h>
#include <stddef.h>

#include "command.h"
#include "holding.h"
#include "lease.h"
#include "say.h"

struct outcome {
    bool was_revoked;
    char reason[REASON_SIZE]; /* of the revocation */
    int exit_status;          /* valid if it was not revoked, and no signal ended it */
    int signal;               /* that ended the command, or 0 */
    double wall_s, cpu_s;
    bool hit_backoff;              /* distcc may have failed only because another distcc had */
    char backup_id[LEASE_ID_SIZE]; /* of the backup that counts; empty: the first attempt counts */
    bool cannot_keep_backup;       /* the files of a backup could not be renamed */
    char *text;                    /* the stderr that was kept back; NULL: none */
    size_t text_length;
};

/* Run the command while the lease lasts, and also as a backup if the server offers one.
 * `keep_text`: keep its stderr back. Does not return if a signal ends gethost. */
struct outcome run_with_lease(char **argv, const struct command *, struct holding *,
                              bool keep_text);

#endif
