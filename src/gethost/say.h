/* Messages to the user. Each is one line, and begins with "gethost: ". */
#ifndef GETHOST_SAY_H
#define GETHOST_SAY_H

#include <stdbool.h>

/* Room for a reason: the part of a message that says why. */
enum { REASON_SIZE = 200 };

/* Print a message. The line is cut off after 1023 characters. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Print a message that the user sees only with --verbose. */
void say_verbosely(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Print text to stdout, and exit with success. */
_Noreturn void print_and_exit(const char *text);

/* Turn --verbose on. */
void say_be_verbose(void);
bool say_is_verbose(void);

#endif
