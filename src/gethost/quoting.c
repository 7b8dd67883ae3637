/* Percent-encoded values. See quoting.h. */
#include "quoting.h"

size_t quote_character(char *to, size_t room, unsigned char c)
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

static int hexadecimal_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool unquote(char *value)
{
    char *to = value;
    for (char *from = value; *from; from++) {
        if (*from != '%') {
            *to++ = *from;
            continue;
        }
        int high = hexadecimal_digit(from[1]), low = high < 0 ? -1 : hexadecimal_digit(from[2]);
        if (low < 0 || high + low == 0)
            return false;
        *to++ = (char)(high * 16 + low);
        from += 2;
    }
    *to = 0;
    return true;
}
