/* Questions about strings, and making foreign text safe to print. See text.h. */
#include "text.h"

#include <string.h>

bool begins_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool ends_with(const char *text, const char *suffix)
{
    size_t length = strlen(text), wanted = strlen(suffix);
    return length >= wanted && strcmp(text + length - wanted, suffix) == 0;
}

bool is_one_of(const char *word, const char *const list[])
{
    for (; *list; list++)
        if (strcmp(word, *list) == 0)
            return true;
    return false;
}

bool begins_with_one_of(const char *text, const char *const prefixes[])
{
    for (; *prefixes; prefixes++)
        if (begins_with(text, *prefixes))
            return true;
    return false;
}

const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

void copy_printable(char *to, size_t size, const char *from)
{
    size_t length = 0;
    for (; from && *from && length + 1 < size; from++)
        to[length++] = *from < ' ' || *from > '~' ? '?' : *from;
    to[length] = 0;
}
