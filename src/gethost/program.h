#ifndef GETHOST_PROGRAM_H
#define GETHOST_PROGRAM_H

/* Can the program be run? It is a path, or a name to look up in PATH. Returns 0, or the exit
 * status of a shell that cannot run it: 127 not found, 126 not executable. */
int program_missing(const char *program);

#endif
