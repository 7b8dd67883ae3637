/* The environment: what it says to gethost, and what gethost says in it to distcc.
 *
 * distcc also has a directory of its own for locks and backoff marks, whose place the environment
 * decides.
 */
#ifndef GETHOST_ENVIRONMENT_H
#define GETHOST_ENVIRONMENT_H

#include <stdbool.h>

#include "lease.h"

/* Does this gethost run under another one, or under distcc? Then it runs the command unchanged. */
bool environment_is_nested(void);

/* The environment of a command that runs on the leased host, or on this machine. Valid until the
 * next call of the same function; a child has a copy. Exits if memory is short. */
char **environment_for_lease(const struct lease *);
char **environment_for_local(void);

/* Does the environment make the compiler write more files than its command line says? */
bool environment_adds_outputs(void);

/* Does the user want to see distcc's messages? */
bool environment_wants_distcc_log(void);

/* A distcc that fails with a host leaves a backoff mark. While the mark is a second old or less,
 * every distcc of this user that is sent to that host fails at once. */
bool environment_has_backoff(const struct lease *);
void environment_remove_backoff(const struct lease *);

/* False if distcc has no place for its lock files: it would fail with every host. */
bool environment_has_distcc_dir(void);

#endif
