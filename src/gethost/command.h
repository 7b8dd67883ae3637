/* What distcc would do with a command, and what the command's exit status means. */
#ifndef GETHOST_COMMAND_H
#define GETHOST_COMMAND_H

#include <stdbool.h>

#include "compiler.h"
#include "outputs.h"

enum command_kind {
    COMMAND_COMPILE, /* distcc, which would send this compile to a host */
    COMMAND_LOCAL,   /* distcc, which would run this here anyway */
    COMMAND_OTHER,   /* not distcc: what it does is not known */
};

struct command {
    enum command_kind kind;
    const char *source, *compiler; /* of COMMAND_COMPILE, else NULL */
    const struct compiler *identity; /* of the compiler; NULL: not identified */
    const char *reason;            /* of COMMAND_LOCAL: why it runs here */
    bool compiles;                 /* of COMMAND_LOCAL: it is a compile nevertheless */
    struct outputs outputs;        /* of COMMAND_COMPILE */
};

struct command command_read(char **argv);

enum verdict {
    VERDICT_FINAL,         /* the command itself ended with this status */
    VERDICT_HOST_FAILED,   /* distcc gave up on the host */
    VERDICT_DISTCC_FAILED, /* distcc gave up for a reason on this machine */
};

enum verdict command_judge(const struct command *, int exit_status);

#endif
