/* Asking a program: running it, and reading what it prints, within limits. */
#ifndef GETHOST_QUERY_H
#define GETHOST_QUERY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ANSWER_SIZE = 64 * 1024 };

enum query_result {
    QUERY_ANSWERED,  /* it printed something, perhaps nothing, and ended */
    QUERY_TOO_LATE,  /* it had not ended at the deadline, and was killed */
    QUERY_TOO_LONG,  /* it printed more than there is room for, and was killed */
    QUERY_NOT_ASKED, /* there is no process or pipe for it */
};

/* Run a program and read its stdout and stderr together, as a string. `setting` ("NAME=value") is
 * added to its environment; NULL: none. Its locale is C. */
enum query_result query(char *const argv[], const char *setting, int64_t deadline_ms,
                        char answer[ANSWER_SIZE]);

#endif
