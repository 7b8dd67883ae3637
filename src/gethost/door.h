/* A door: the name under which a compile is sent to a host. It says which compiler has to do it.
 *
 * A door is called NAME-ID, as in gcc-3f9a11c2d4e5f60a. The host knows which program that is. On
 * this machine, distcc finds the same name in a folder of this user, which PATH begins with.
 */
#ifndef GETHOST_DOOR_H
#define GETHOST_DOOR_H

#include <stdbool.h>

#include "compiler.h"
#include "lease.h"

/* The variable that tells a door what to become. */
#define DOOR_VARIABLE "GETHOST_DOOR"

/* Is this a name that a door can have? */
bool door_is_name(const char *name);

/* Why a compile with this compiler cannot go through a door; NULL: it can. */
const char *door_obstacle(const struct compiler *, char *const argv[]);

/* Make the door of this name that leads to the compiler, which is the command's second word.
 * Returns false if the name is not of such a compiler, or if it cannot be made. */
bool door_make(const char *name, const struct compiler *, char *const argv[]);

/* The same, and have the command go through it: its words and its environment become others. With
 * an empty name, or without a compiler, they stay as they are. */
bool door_use(const char *name, const struct compiler *, char ***argv, char ***environment);

/* If gethost was started as a door, become the compiler behind it. */
void door_pass(char **argv);

#endif
