/* One run of the command on one host: a child, its stderr, and its end. Nothing here waits. */
#ifndef GETHOST_ATTEMPT_H
#define GETHOST_ATTEMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "compiler.h"
#include "lease.h"

struct attempt {
    pid_t process;     /* 0: not started */
    bool is_backup;    /* set before the start */
    bool leaves_files; /* gethost removes or replaces its files: see attempt_is_over() */
    struct lease lease;
    int64_t start_ms;
    int64_t kill_ms; /* kill what still runs at this time; -1: it has not been asked to end */
    bool has_ended;  /* then the next three are valid */
    int status;      /* as wait4() returns it */
    double wall_s, cpu_s;
    int stderr_fd; /* where its stderr is read; -1: it is not kept back, or is closed */
    char *text;    /* what it wrote to stderr so far, allocated; NULL: nothing */
    size_t text_length;
    bool text_overflowed; /* too long to keep back: shown already, or lost if it is a backup's */
};

#define NO_ATTEMPT ((struct attempt){.kill_ms = -1, .stderr_fd = -1})

/* Start the command. `compiler`: its second word; NULL if that is not known. `keep_text`: keep its
 * stderr back. Returns false, with errno set, on failure. */
bool attempt_start(struct attempt *, char **argv, const struct compiler *compiler,
                   const struct lease *, bool keep_text);

/* Notice that its process has ended. Kill it if it was asked to end and has not done so in time. */
void attempt_update(struct attempt *);

bool attempt_is_running(const struct attempt *);
/* It does not run, and if it leaves files, no process can write them any more. */
bool attempt_is_over(const struct attempt *);
bool attempt_succeeded(const struct attempt *);
/* Did distcc fail at once because of the backoff mark that another distcc left? */
bool attempt_hit_backoff(const struct attempt *);

/* Ask it to end. */
void attempt_stop(struct attempt *);
/* It has been asked to end in another way: kill it if it has not done so in time. */
void attempt_set_deadline(struct attempt *);

/* Read what it has written to stderr so far. */
void attempt_read_text(struct attempt *);
void attempt_close_text(struct attempt *);

#endif
