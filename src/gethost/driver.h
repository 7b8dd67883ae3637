/* A compiler's driver: the program that a command names, such as gcc. */
#ifndef GETHOST_DRIVER_H
#define GETHOST_DRIVER_H

#include <stdbool.h>

#include "compiler.h"
#include "stamps.h"

/* What names, versions and targets consist of. */
extern const char driver_word_characters[];

/* Find the driver that distcc would run for the word of a command, and write its path. Returns
 * false, with a reason, if there is none. Either way, `stamps` gets all files that decide it. */
bool driver_find(const char *word, struct compiler *, struct stamps *);

/* Find a program that a driver looks up in PATH. */
bool driver_find_tool(const char *name, struct stamps *, char path[COMPILER_PATH_SIZE]);

/* Write the compiler's canonical name, for which path and target must be known. Equal compilers
 * get the same one, and it makes the driver do the same as its own name does. Returns false, with
 * a reason, if the driver does not compile C or C++. */
bool driver_name_gcc(const char *word, struct compiler *);
bool driver_name_clang(struct compiler *);

#endif
