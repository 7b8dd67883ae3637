/* A line that came from host-server, taken apart and checked.
 *
 * All text from the network passes through these functions.
 */
#ifndef GETHOST_MESSAGE_H
#define GETHOST_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "lease.h"
#include "say.h"

enum { MESSAGE_WORDS_MAX = 64 };

struct message {
    const char *verb;
    size_t count;
    struct {
        const char *key, *value; /* the value is decoded */
    } word[MESSAGE_WORDS_MAX];
};

/* Take the line apart in place: the message points into it. False if it is not of the protocol. */
bool message_read(char *line, struct message *);

bool message_is(const struct message *, const char *verb);

/* A whole number from `low` to `high`, both at least 0; -1 if the key is missing or the value is
 * anything else. */
int message_number(const struct message *, const char *key, int low, int high);

/* The id and the reason, safe to print. Without an id, an empty string. */
void message_id(const struct message *, char id[LEASE_ID_SIZE]);
void message_reason(const struct message *, char reason[REASON_SIZE]);

/* The lease in the message. False if a part of it is missing or not valid. */
bool message_lease(const struct message *, struct lease *);

#endif
