/* What gethost asks host-server for. */
#ifndef GETHOST_REQUEST_H
#define GETHOST_REQUEST_H

#include <stdbool.h>

#include "compiler.h"
#include "line.h"

struct request {
    const char *servers; /* host[:port], or several separated by commas */
    const char *type;    /* of the hosts; NULL: any */
    const char *wait_s;  /* the number that the user gave; NULL: no limit */
    const char *source, *compiler; /* NULL: unknown */
    const struct compiler *identity; /* of the compiler; NULL: unknown */
    bool can_back_up;              /* a second run of the compile, a backup, is possible */
    char avoid[1024];              /* names of hosts not to use, separated by commas */
};

/* Add a host to `avoid`. */
void request_avoid(struct request *, const char *host);

/* Add words to a line: about this user and machine; and besides them, about the compile. */
void request_add_builder(struct line *);
void request_add_compile(struct line *, const struct request *);

#endif
