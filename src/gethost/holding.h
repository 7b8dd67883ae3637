/* The lease while the command runs: what the server says about it, and what the server is told.
 *
 * A holding lasts longer than its connection. If the server goes away, the command goes on. Later
 * the lease is attached again: to the same server once it is back, or to the next one of the
 * list.
 */
#ifndef GETHOST_HOLDING_H
#define GETHOST_HOLDING_H

#include <stdint.h>

#include "asking.h"
#include "lease.h"
#include "request.h"
#include "say.h"

struct holding;

enum holding_event {
    HOLDING_UNCHANGED,
    HOLDING_REVOKED,        /* the lease, and with it the backup */
    HOLDING_BACKUP_OFFERED, /* see holding_backup() */
    HOLDING_BACKUP_ENDED,   /* the server took it back, or is gone */
};

/* Hold the lease that was granted, and take over its connection. The request must stay valid.
 * Returns NULL, with the connection closed, if memory is short. */
struct holding *holding_start(const struct request *, struct grant *);

/* The lease. A server that it is attached to may give it another id. */
const struct lease *holding_lease(const struct holding *);
/* The second lease for the same compile that the server offered; NULL: none, or it has ended. */
const struct lease *holding_backup(const struct holding *);

/* What to poll() for, and the time by which holding_next_event() has to be called if nothing
 * comes (-1: never). */
int holding_fd(const struct holding *, short *events);
int64_t holding_due_ms(const struct holding *);

/* Handle what came, without waiting. Call it until it returns HOLDING_UNCHANGED. After
 * HOLDING_REVOKED and HOLDING_BACKUP_ENDED, `reason` says why. */
enum holding_event holding_next_event(struct holding *, char reason[REASON_SIZE]);

/* The backup ended, and its host is not to blame; or it is. The lease stays. If the server has
 * ended the backup already, it is not told. */
void holding_drop_backup(struct holding *);
void holding_backup_failed(struct holding *, int exit_status, const char *reason);

/* The last call for each holding is one of these. It gives the lease back, and frees the holding.
 *
 * The command ended under the lease or backup with the id `id`; an empty one means the lease. */
void holding_done(struct holding *, const char *id, int exit_status, double wall_s, double cpu_s);
/* The host failed. */
void holding_failed(struct holding *, int exit_status, const char *reason);
/* The server is told nothing. */
void holding_end(struct holding *);

#endif
