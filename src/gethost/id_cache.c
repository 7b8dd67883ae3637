/* What is remembered about compilers from one compile to the next: a file for each.
 *
 * A file holds lines of text: its format; what is known; the files that this depends on, each with
 * its state; and a checksum. A look costs one open(), one read() and a stat() for each of those
 * files, 10 to 20 microseconds in all. Working it out costs milliseconds.
 *
 * A file is written under another name and renamed. So it is read whole or not at all, and a
 * damaged one counts as none.
 *
 * An answer also depends on the directories of PATH in which there is no such program. So a
 * compiler that is installed in one of them counts at once.
 *
 * This file does not know how an id is worked out.
 */
#define _GNU_SOURCE
#include "id_cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "array.h"
#include "clock.h"
#include "descriptors.h"
#include "quoting.h"
#include "text.h"

enum {
    PATH_SIZE = CACHE_DIRECTORY_SIZE + 100,
    ENTRY_SIZE_MAX = 128 * 1024,
    FILES_MAX = 1000, /* with more, all are removed: a build with a PATH of its own leaves some */
    LOCK_WAIT_MS = 10000,
    LOCK_LOOK_MS = 5,
    LOCKS = 1 << 20, /* bytes of the lock file: different compilers hardly ever share one */
};

static const char format[] = "compiler-id 1";

/* ---- the place ---- */

struct hash {
    uint64_t sum; /* FNV-1a, not for security */
};

static void add_bytes(struct hash *hash, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        hash->sum = (hash->sum ^ (unsigned char)bytes[i]) * 1099511628211u;
}

#define NEW_HASH ((struct hash){14695981039346656037u})

/* Does the text, or one of the directories in a list, begin at the current directory? */
static bool is_relative(const char *list)
{
    for (; list; list = strchr(list, ':') ? strchr(list, ':') + 1 : NULL)
        if (*list != '/')
            return true;
    return false;
}

/* gcc and the dynamic loader obey these. */
static uint64_t key_of(const char *word)
{
    static const char *const variables[] = {"GCC_EXEC_PREFIX", "COMPILER_PATH", "LD_LIBRARY_PATH"};
    struct hash hash = NEW_HASH;
    const char *path = getenv("PATH");
    path = path ? path : "";
    add_bytes(&hash, word, strlen(word) + 1);
    add_bytes(&hash, path, strlen(path) + 1);
    for (size_t i = 0; i < ARRAY_LENGTH(variables); i++) {
        const char *value = getenv(variables[i]);
        add_bytes(&hash, value ? "=" : "", 1);
        add_bytes(&hash, value ? value : "", value ? strlen(value) + 1 : 0);
    }
    char directory[COMPILER_PATH_SIZE];
    if (is_relative(strchr(word, '/') ? word : path) && getcwd(directory, sizeof directory))
        add_bytes(&hash, directory, strlen(directory));
    return hash.sum;
}

bool id_cache_open(struct id_cache *cache, const char *word)
{
    cache->lock = -1;
    cache->key = key_of(word);
    return cache_directory(cache->directory) && strcat(cache->directory, "/compilers");
}

static void path_of(const struct id_cache *cache, const char *suffix, char path[PATH_SIZE])
{
    snprintf(path, PATH_SIZE, "%s/%016" PRIx64 "%s", cache->directory, cache->key, suffix);
}

/* ---- reading ---- */

static char *next_word(char **rest)
{
    return *rest ? strsep(rest, " ") : NULL;
}

static bool read_text(char **rest, char *to, size_t size)
{
    char *word = next_word(rest);
    if (!word || !unquote(word) || strlen(word) >= size)
        return false;
    memcpy(to, word, strlen(word) + 1);
    return true;
}

static bool read_number(char **rest, uint64_t *number)
{
    char *word = next_word(rest), *end;
    if (!word || !*word)
        return false;
    errno = 0;
    *number = strtoull(word, &end, 10);
    return !*end && !errno;
}

/* The line with all that is known. */
static bool read_compiler(char *line, struct compiler *compiler)
{
    uint64_t until_s, now_s = (uint64_t)time(NULL);
    return read_text(&line, compiler->id, sizeof compiler->id) &&
           read_text(&line, compiler->name, sizeof compiler->name) &&
           read_text(&line, compiler->version, sizeof compiler->version) &&
           read_text(&line, compiler->target, sizeof compiler->target) &&
           read_text(&line, compiler->text, sizeof compiler->text) &&
           read_text(&line, compiler->reason, sizeof compiler->reason) &&
           read_text(&line, compiler->path, sizeof compiler->path) &&
           read_number(&line, &until_s) && !line && (!until_s || now_s < until_s);
}

/* A line about a file: is the file as it was? */
static bool is_current(char *line)
{
    char *path = next_word(&line);
    if (!path || !*path || !unquote(path))
        return false;
    struct stamp was = {.path = path, .exists = line != NULL};
    uint64_t size = 0, modified_ns = 0, changed_ns = 0;
    if (was.exists &&
        (!read_number(&line, &was.device) || !read_number(&line, &was.inode) ||
         !read_number(&line, &size) || !read_number(&line, &modified_ns) ||
         !read_number(&line, &changed_ns) || line))
        return false;
    was.size = (int64_t)size;
    was.modified_ns = (int64_t)modified_ns;
    was.changed_ns = (int64_t)changed_ns;
    return stamp_is_current(&was);
}

/* Read a file whole, as a string. False if that is not possible. Nothing is asked about the file:
 * only this user can have made it. */
static bool read_file(const char *path, char *text, size_t size, size_t *length)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t count = read(fd, text, size - 1);
    close(fd);
    if (count < 0)
        return false;
    text[count] = 0;
    *length = (size_t)count;
    return strlen(text) == *length;
}

/* Cut the checksum off. False if it is not that of the rest. */
static bool check_sum(char *text, size_t length)
{
    enum { SUM_SIZE = 17 }; /* 16 digits and a newline */
    char expected[32];
    if (length < SUM_SIZE)
        return false;
    struct hash hash = NEW_HASH;
    add_bytes(&hash, text, length - SUM_SIZE);
    snprintf(expected, sizeof expected, "%016" PRIx64 "\n", hash.sum);
    bool is_right = strcmp(text + length - SUM_SIZE, expected) == 0;
    text[length - SUM_SIZE] = 0;
    return is_right;
}

/* Read the entry. `*rest` becomes what follows the line with the format. */
static bool read_entry(const struct id_cache *cache, char **rest)
{
    static char text[ENTRY_SIZE_MAX];
    char path[PATH_SIZE];
    size_t length;
    path_of(cache, "", path);
    *rest = text;
    return read_file(path, text, sizeof text, &length) && check_sum(text, length) &&
           strcmp(strsep(rest, "\n"), format) == 0 && *rest;
}

const char *id_cache_next_file(const struct id_cache *cache, char **entry)
{
    if (!*entry && (!read_entry(cache, entry) || !strsep(entry, "\n")))
        return NULL;
    char *line = *entry && **entry ? strsep(entry, "\n") : NULL, *path = next_word(&line);
    return path && unquote(path) ? path : NULL;
}

bool id_cache_read(const struct id_cache *cache, struct compiler *compiler)
{
    char *rest;
    if (!read_entry(cache, &rest) || !read_compiler(strsep(&rest, "\n"), compiler))
        return false;
    while (rest && *rest)
        if (!is_current(strsep(&rest, "\n")))
            return false;
    return true;
}

/* ---- writing ---- */

static void write_text(FILE *file, const char *text, char end)
{
    for (; *text; text++) {
        char quoted[4];
        size_t length = quote_character(quoted, sizeof quoted, (unsigned char)*text);
        fwrite(quoted, 1, length, file);
    }
    fputc(end, file);
}

static void write_stamp(FILE *file, const struct stamp *stamp)
{
    write_text(file, stamp->path, stamp->exists ? ' ' : '\n');
    if (stamp->exists)
        fprintf(file, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
                stamp->device, stamp->inode, (uint64_t)stamp->size, (uint64_t)stamp->modified_ns,
                (uint64_t)stamp->changed_ns);
}

/* The text of the file, allocated; NULL if memory is short. */
static char *text_of(const struct compiler *compiler, const struct stamps *stamps, int valid_s,
                     size_t *length)
{
    char *text = NULL;
    FILE *file = open_memstream(&text, length);
    if (!file)
        return NULL;
    fprintf(file, "%s\n", format);
    const char *const fields[] = {compiler->id,   compiler->name,   compiler->version,
                                  compiler->target, compiler->text, compiler->reason,
                                  compiler->path};
    for (size_t i = 0; i < ARRAY_LENGTH(fields); i++)
        write_text(file, fields[i], ' ');
    fprintf(file, "%" PRIu64 "\n", valid_s ? (uint64_t)time(NULL) + (uint64_t)valid_s : 0);
    for (size_t i = 0; i < stamps->count; i++)
        write_stamp(file, &stamps->item[i]);
    if (fflush(file) == 0) {
        struct hash hash = NEW_HASH;
        add_bytes(&hash, text, *length);
        fprintf(file, "%016" PRIx64 "\n", hash.sum);
    }
    if (fclose(file) == 0)
        return text;
    free(text);
    return NULL;
}

/* Keep the directory from growing without end. */
static void remove_surplus(const char *directory)
{
    DIR *files = opendir(directory);
    size_t count = 0;
    while (files && readdir(files))
        count++;
    if (files && count > FILES_MAX) {
        rewinddir(files);
        for (struct dirent *entry; (entry = readdir(files));)
            if (entry->d_name[0] != '.' && strcmp(entry->d_name, "lock") != 0)
                (void)unlinkat(dirfd(files), entry->d_name, 0);
    }
    if (files)
        closedir(files);
}

bool id_cache_write(const struct id_cache *cache, const struct compiler *compiler,
                    const struct stamps *stamps, int valid_s)
{
    char path[PATH_SIZE], new_path[PATH_SIZE], suffix[32];
    size_t length;
    remove_surplus(cache->directory);
    char *text = text_of(compiler, stamps, valid_s, &length);
    snprintf(suffix, sizeof suffix, ".%ld", (long)getpid());
    path_of(cache, "", path);
    path_of(cache, suffix, new_path);
    int fd = private_fd(open(new_path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
    if (fd < 0 || !text) {
        free(text);
        return false;
    }
    bool is_written = write(fd, text, length) == (ssize_t)length;
    int error = is_written ? 0 : errno ? errno : ENOSPC;
    free(text);
    if (close(fd) == 0 && is_written && rename(new_path, path) == 0)
        return true;
    error = error ? error : errno;
    (void)unlink(new_path);
    errno = error;
    return false;
}

/* ---- one at a time ---- */

void id_cache_lock(struct id_cache *cache)
{
    char path[PATH_SIZE];
    (void)mkdir(cache->directory, 0700);
    snprintf(path, sizeof path, "%s/lock", cache->directory);
    cache->lock = private_fd(open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
    struct flock lock = {.l_type = F_WRLCK,
                         .l_whence = SEEK_SET,
                         .l_start = (off_t)(cache->key % LOCKS),
                         .l_len = 1};
    int64_t deadline_ms = now_ms() + LOCK_WAIT_MS;
    while (cache->lock >= 0 && fcntl(cache->lock, F_SETLK, &lock) != 0 &&
           (errno == EACCES || errno == EAGAIN || errno == EINTR) && now_ms() < deadline_ms)
        sleep_until(now_ms() + LOCK_LOOK_MS);
}

void id_cache_unlock(struct id_cache *cache)
{
    if (cache->lock >= 0)
        close(cache->lock);
    cache->lock = -1;
}
