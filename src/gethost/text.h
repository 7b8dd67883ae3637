/* Questions about strings, and making foreign text safe to print. */
#ifndef GETHOST_TEXT_H
#define GETHOST_TEXT_H

#include <stdbool.h>
#include <stddef.h>

bool begins_with(const char *text, const char *prefix);
bool ends_with(const char *text, const char *suffix);

/* Both lists end with NULL. */
bool is_one_of(const char *word, const char *const list[]);
bool begins_with_one_of(const char *text, const char *const prefixes[]);

/* The part after the last slash; the whole path if it ends with a slash. */
const char *base_name(const char *path);

/* Copy `from`, with '?' for every character that is not printable ASCII, and cut it to `size`.
 * A `from` of NULL gives an empty string. */
void copy_printable(char *to, size_t size, const char *from);

#endif
