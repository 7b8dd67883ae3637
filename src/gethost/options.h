/* gethost's own options. */
#ifndef GETHOST_OPTIONS_H
#define GETHOST_OPTIONS_H

#include <stdbool.h>

struct options {
    const char *servers; /* host[:port], or several separated by commas; never empty */
    const char *type;    /* of hosts; NULL: any */
    const char *wait_s;  /* a number; NULL: no limit */
    bool jobs;           /* print the number of jobs; there is no command then */
    bool compiler_ids;   /* print the ids of the compilers that the command's words name */
    char **command;      /* the rest of argv */
};

/* Read the options. --help and --version print and exit; a wrong option prints one line and exits
 * with status 2. */
struct options options_read(char **argv);

#endif
