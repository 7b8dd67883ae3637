/* The words of a command line, as distcc sees them. See words.h.
 *
 * This file does not know what the words mean.
 */
#define _GNU_SOURCE
#include "words.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "descriptors.h"
#include "text.h"

enum {
    /* The @FILE of a compile holds include paths. A larger one lists the object files of a link. */
    ARGUMENT_FILE_MAX = 64 * 1024,
    ARGUMENT_FILE_DEPTH = 10, /* of an @FILE within an @FILE */
};

static bool add_word(struct words *words, const char *word)
{
    if (words->count + 2 > words->room) {
        size_t room = words->room ? 2 * words->room : 64;
        const char **item = realloc(words->item, room * sizeof *item);
        if (!item)
            return false;
        words->item = item;
        words->room = room;
    }
    words->item[words->count++] = word;
    words->item[words->count] = NULL;
    return true;
}

/* Cut the next word off the contents of an @FILE, in place, as a compiler does: at white space,
 * with quotes and backslashes. Returns NULL at the end. */
static char *next_word(char **rest)
{
    char *from = *rest, *to, *word, quote = 0;
    while (isspace((unsigned char)*from))
        from++;
    if (!*from)
        return NULL;
    for (word = to = from; *from && (quote || !isspace((unsigned char)*from)); from++) {
        if (*from == '\\' && from[1] && quote != '\'')
            *to++ = *++from;
        else if (quote ? *from == quote : *from == '\'' || *from == '"')
            quote = quote ? 0 : *from;
        else
            *to++ = *from;
    }
    *rest = *from ? from + 1 : from;
    *to = 0;
    return word;
}

enum expansion { EXPANDED, NOT_A_FILE, TOO_LARGE };

static enum expansion expand_word(struct words *words, const char *word, int depth);

static enum expansion expand_file(struct words *words, const char *path, int depth)
{
    struct stat status;
    int fd = private_fd(open(path, O_RDONLY | O_NONBLOCK));
    if (fd < 0)
        return NOT_A_FILE;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
        close(fd);
        return NOT_A_FILE;
    }
    char *text = NULL;
    ssize_t length = -1;
    if (depth < ARGUMENT_FILE_DEPTH && status.st_size < ARGUMENT_FILE_MAX) {
        text = malloc(ARGUMENT_FILE_MAX); /* never freed: the words point into it */
        length = text ? read(fd, text, ARGUMENT_FILE_MAX - 1) : -1;
    }
    close(fd);
    if (length < 0)
        return TOO_LARGE;
    text[length] = 0;
    for (char *inner; (inner = next_word(&text));)
        if (expand_word(words, inner, depth + 1) == TOO_LARGE)
            return TOO_LARGE;
    return EXPANDED;
}

/* distcc puts -MF before the file name in -Wp,-MD,FILE. */
static enum expansion expand_preprocessor_options(struct words *words, const char *list)
{
    char *parts = strdup(list);
    while (parts) {
        char *part = parts + 1; /* after a comma */
        parts = strchr(part, ',');
        if (parts)
            *parts = 0;
        if (!add_word(words, part))
            return TOO_LARGE;
        if ((!strcmp(part, "-MD") || !strcmp(part, "-MMD")) && !add_word(words, "-MF"))
            return TOO_LARGE;
    }
    return EXPANDED;
}

static enum expansion expand_word(struct words *words, const char *word, int depth)
{
    if (word[0] == '@') {
        enum expansion expansion = expand_file(words, word + 1, depth);
        if (expansion != NOT_A_FILE)
            return expansion;
    }
    if (begins_with(word, "-Wp,"))
        return expand_preprocessor_options(words, word + strlen("-Wp"));
    return add_word(words, word) ? EXPANDED : TOO_LARGE;
}

bool words_expand(struct words *words, char **argv)
{
    for (; *argv; argv++)
        if (expand_word(words, *argv, 0) == TOO_LARGE)
            return false;
    return true;
}
