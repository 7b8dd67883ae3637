/* The compiler that a command names, and its id: what tells whether another machine has the same.
 */
#ifndef GETHOST_COMPILER_ID_H
#define GETHOST_COMPILER_ID_H

#include <stdbool.h>

#include "compiler.h"

/* Identify the compiler that the word of a command names: a path, or a name to look up in PATH.
 * Returns false if it has no id now, or if the id cannot be remembered, so that each compile would
 * have to work it out anew; `reason` says why. Takes microseconds, except for the first time. */
bool compiler_identify(const char *word, struct compiler *);

/* Print a line for each word, up to NULL: fields with tabs between, percent-encoded as in the
 * protocol. They are id, name, version, target, path, text, and then the files that the answer
 * depends on, if that is known. Without an id, the first four are `-`, the fifth is the word, and
 * the sixth is the reason. */
void compiler_print_ids(char **words);

#endif
