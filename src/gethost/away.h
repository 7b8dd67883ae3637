/* Notes about servers that do not answer, shared by all gethosts of this user. */
#ifndef GETHOST_AWAY_H
#define GETHOST_AWAY_H

#include <stdbool.h>

/* Should this server be left alone, because it did not answer a moment ago?
 * Once the note is stale, the first gethost that sees it gets false and renews it. */
bool away_is_marked(const char *server);

/* Note that the server did not answer. True: there was no note, so the user should be told. */
bool away_mark(const char *server);

/* The server answered: remove its note. */
void away_unmark(const char *server);

/* True once a minute for each list of servers. So 400 refused compiles print one message. */
bool away_is_first_refusal(const char *servers);

/* True for the first compile of a build that has this to tell the user. A build: compiles of one
 * session (a terminal, or a job of a CI server) with less than a minute between two of them that
 * have it to tell. The directory does not count, because a build uses many. */
bool away_is_first_in_build(const char *message);

#endif
