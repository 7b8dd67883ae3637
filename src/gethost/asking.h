/* Asking host-server for a lease, or for the number of jobs that is worth starting. */
#ifndef GETHOST_ASKING_H
#define GETHOST_ASKING_H

#include <stdbool.h>

#include "connection.h"
#include "lease.h"
#include "request.h"
#include "say.h"

enum answer {
    ANSWER_LEASE,   /* granted */
    ANSWER_JOBS,    /* the number that was asked for */
    ANSWER_REFUSED, /* the server answered that there will be no slot */
    ANSWER_AWAY,    /* no server, or none that gives a valid answer */
};

/* A lease as it was granted. While the connection is open, the lease is ours. */
struct grant {
    struct lease lease;
    struct connection connection;
    struct address address; /* of the server, */
    int entry;              /* which has this number in the list */
};

/* Ask the request's servers for a lease. Unless it is granted, `reason` says why. `*is_news` is
 * set if a server is away and no gethost of this user has noticed before. */
enum answer ask_for_lease(const struct request *, struct grant *, char reason[REASON_SIZE],
                          bool *is_news);

/* Ask the servers for the number of jobs. Unless they say one, `reason` says why. */
enum answer ask_for_jobs(const char *servers, int *jobs, char reason[REASON_SIZE]);

#endif
