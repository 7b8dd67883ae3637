/* What the gethosts of one user leave for each other in files: notes, and a cache. */
#ifndef GETHOST_NOTES_H
#define GETHOST_NOTES_H

#include <stdbool.h>

enum { CACHE_DIRECTORY_SIZE = 2000 };

/* Open the directory of this user's notes. If there is none and `create` is set, make one.
 * Returns a private descriptor, which the caller closes; -1 if there is no usable place. */
int notes_directory(bool create);

/* Find the directory of this user's cache, which outlives a session. If there is none, make one.
 * Returns false if there is no usable place. */
bool cache_directory(char path[CACHE_DIRECTORY_SIZE]);

#endif
