/* The compiler that a command names, and its id. See compiler_id.h.
 *
 * make -j64 starts 64 gethosts at once. The first one works the id out, and the others wait for it.
 *
 * That a compiler has no id is remembered, too, for a short time: another look costs as much, and
 * the files that decide it need not all be known.
 *
 * This file does not know what an id is made of, or how it is remembered.
 */
#define _GNU_SOURCE
#include "compiler_id.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "array.h"
#include "id_cache.h"
#include "id_parts.h"
#include "quoting.h"

enum {
    NONE_S = 2,   /* an upgrade takes some seconds, and its end has to count soon */
    HANGS_S = 30, /* all gethosts wait for the one that asks such a compiler */
};

/* False if it cannot be remembered. */
static bool work_out(const char *word, struct id_cache *cache, struct compiler *compiler)
{
    static struct stamps stamps;
    switch (id_work_out(word, compiler, &stamps)) {
    case ID_FOUND:
        return id_cache_write(cache, compiler, &stamps, 0);
    case ID_NONE:
        return id_cache_write(cache, compiler, &stamps, NONE_S);
    case ID_HANGS:
        return id_cache_write(cache, compiler, &stamps, HANGS_S);
    default:
        return true;
    }
}

bool compiler_identify(const char *word, struct compiler *compiler)
{
    struct id_cache cache;
    if (!id_cache_open(&cache, word)) {
        (void)id_work_out(word, compiler, &(struct stamps){0});
        snprintf(compiler->reason, sizeof compiler->reason,
                 "there is no directory for a cache (set XDG_CACHE_HOME)");
        return false;
    }
    if (id_cache_read(&cache, compiler))
        return *compiler->id;
    id_cache_lock(&cache);
    bool is_known = id_cache_read(&cache, compiler) || work_out(word, &cache, compiler);
    if (!is_known && *compiler->id)
        snprintf(compiler->reason, sizeof compiler->reason, "cannot write to %.100s: %s",
                 cache.directory, strerror(errno));
    id_cache_unlock(&cache);
    return is_known && *compiler->id;
}

static void print_field(const char *before, const char *text)
{
    char quoted[3 * COMPILER_PATH_SIZE];
    size_t length = 0, added;
    for (; *text; text++, length += added)
        added = quote_character(quoted + length, sizeof quoted - length, (unsigned char)*text);
    fputs(before, stdout);
    fwrite(quoted, 1, length, stdout);
}

void compiler_print_ids(char **words)
{
    for (; *words; words++) {
        static struct compiler compiler;
        (void)compiler_identify(*words, &compiler);
        const char *none = "-", *fields[] = {none, none, none, none, *words, compiler.reason};
        const char *known[] = {compiler.id,     compiler.name, compiler.version,
                               compiler.target, compiler.path, compiler.text};
        memcpy(fields, *compiler.id ? known : fields, sizeof fields);
        for (size_t i = 0; i < ARRAY_LENGTH(fields); i++)
            print_field(i ? "\t" : "", fields[i]);
        struct id_cache cache;
        bool is_open = id_cache_open(&cache, *words);
        char *entry = NULL;
        for (const char *file; is_open && (file = id_cache_next_file(&cache, &entry));)
            print_field("\t", file);
        putchar('\n');
        fflush(stdout); /* the next compiler may take its time */
    }
}
