/* Percent-encoded values, as docs/protocol.md defines them. */
#ifndef GETHOST_QUOTING_H
#define GETHOST_QUOTING_H

#include <stdbool.h>
#include <stddef.h>

/* Write the character or its code. Returns the number of bytes, 0 if they do not fit. */
size_t quote_character(char *to, size_t room, unsigned char c);

/* Decode %XX in place. False if that is not two digits, or if it is a NUL, which would hide what
 * follows it. */
bool unquote(char *value);

#endif
