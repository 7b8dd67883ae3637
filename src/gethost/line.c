/* A line to be sent to host-server. See line.h. */
#include "line.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

#include "quoting.h"

void line_start(struct line *line, const char *verb)
{
    line->length = (size_t)snprintf(line->text, sizeof line->text - 1, "%s", verb);
    line->text[line->length] = '\n';
}

void line_add(struct line *line, const char *key, const char *value)
{
    size_t length = line->length, end = sizeof line->text - 1; /* the newline needs one byte */
    int written = snprintf(line->text + length, end - length, " %s=", key);
    bool fits = written >= 0 && (size_t)written < end - length;
    if (fits)
        length += (size_t)written;
    for (; fits && *value; value++) {
        size_t room = end - length - 1;
        size_t quoted = quote_character(line->text + length, room, (unsigned char)*value);
        length += quoted;
        fits = quoted > 0;
    }
    if (fits)
        line->length = length;
    line->text[line->length] = '\n';
}

void line_add_format(struct line *line, const char *key, const char *format, ...)
{
    char value[64];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(value, sizeof value, format, arguments);
    va_end(arguments);
    line_add(line, key, value);
}
