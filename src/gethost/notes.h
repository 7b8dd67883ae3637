#ifndef GETHOST_NOTES_H
#define GETHOST_NOTES_H

#include <stdbool.h>

/* Open the directory of this user's notes. If there is none and `create` is set, make one.
 * Returns a private descriptor, which the caller closes; -1 if there is no usable place. */
int notes_directory(bool create);

#endif
