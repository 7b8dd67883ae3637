/* A line to be sent to host-server. See line.h. */
#include "line.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

void line_start(struct line *line, const char *verb)
{
    line->length = (size_t)snprintf(line->text, sizeof line->text - 1, "%s", verb);
    line->text[line->length] = '\n';
}

/* Write the character or its code. Returns the number of bytes, 0 if they do not fit. */
static size_t encode(char *to, size_t room, unsigned char c)
{
    static const char hexadecimal[] = "0123456789ABCDEF";
    bool is_plain = c > ' ' && c < 0x7f && c != '%';
    size_t length = is_plain ? 1 : 3;
    if (length > room)
        return 0;
    to[0] = is_plain ? (char)c : '%';
    if (!is_plain) {
        to[1] = hexadecimal[c >> 4];
        to[2] = hexadecimal[c & 15];
    }
    return length;
}

void line_add(struct line *line, const char *key, const char *value)
{
    size_t length = line->length, end = sizeof line->text - 1; /* the newline needs one byte */
    int written = snprintf(line->text + length, end - length, " %s=", key);
    bool fits = written >= 0 && (size_t)written < end - length;
    if (fits)
        length += (size_t)written;
    for (; fits && *value; value++) {
        size_t encoded = encode(line->text + length, end - length - 1, (unsigned char)*value);
        length += encoded;
        fits = encoded > 0;
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
