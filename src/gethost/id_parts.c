/* The id of a compiler, worked out from its parts.
 *
 * Two compilers are equal if they make equal objects of equal sources. What decides that:
 *
 *   gcc    The driver, and the programs that it runs: cc1, cc1plus, as. A specs file, if the driver
 *          says that it reads one.
 *   clang  The driver, and LLVM's libraries. The configuration files that it says it reads.
 *
 * Each counts with its build id, or without one, with its contents. Besides, there is what the
 * driver says with -v: version, target, configuration. Paths do not count: the same compiler may be
 * at another place on another machine. The id is the beginning of a SHA-256 over all of this.
 *
 * The last digit of an id is never a digit or a `c`. clang takes off the digits at the end of its
 * name, and takes a name that then ends with `cc` for that of a C compiler, though it be called
 * clang++-ID.
 *
 * A program is asked for its version only if it is not a script: a script's answer says nothing
 * about what else it does.
 *
 * This file does not know caches, or where the id is used.
 */
#define _GNU_SOURCE
#include "id_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "array.h"
#include "build_id.h"
#include "clock.h"
#include "descriptors.h"
#include "driver.h"
#include "query.h"
#include "sha256.h"
#include "text.h"

enum {
    FORMAT = 1,            /* of what goes into the digest: with another one, all ids are others */
    ANSWER_MS = 2000,      /* for one question; clang needs 50 ms of an idle machine */
    PART_SIZE_MAX = 1 << 29,
    SETTINGS_SIZE_MAX = 64 * 1024,
    LIBRARIES_MAX = 16,
};

struct inquiry {
    struct compiler *compiler;
    struct stamps *stamps;
    struct sha256 sum;
    enum id_result failure;
    char answer[ANSWER_SIZE];
};

/* ---- what is told ---- */

static bool fail(struct inquiry *inquiry, const char *what, const char *why)
{
    struct compiler *compiler = inquiry->compiler;
    char shown[100];
    copy_printable(shown, sizeof shown, what);
    snprintf(compiler->reason, sizeof compiler->reason, "%s %s", shown, why);
    return false;
}

static void add_text(struct inquiry *inquiry, const char *text)
{
    sha256_add(&inquiry->sum, text, strlen(text));
}

/* One line of the digest. */
static void add_line(struct inquiry *inquiry, const char *word, const char *kind, const char *value)
{
    const char *parts[] = {word, " ", kind, " ", value, "\n"};
    for (size_t i = 0; i < ARRAY_LENGTH(parts); i++)
        add_text(inquiry, parts[i]);
}

/* ---- parts ---- */

static bool digest_contents(int fd, off_t size, char text[SHA256_TEXT_SIZE])
{
    struct sha256 sum;
    static char chunk[64 * 1024];
    ssize_t length;
    off_t total = 0;
    sha256_start(&sum);
    while ((length = read(fd, chunk, sizeof chunk)) > 0 && (total += length) <= size)
        sha256_add(&sum, chunk, (size_t)length);
    sha256_end(&sum, text);
    return length == 0 && total == size;
}

static int open_part(struct inquiry *inquiry, const char *path, struct stat *status)
{
    int fd = private_fd(open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY));
    if (fd < 0) {
        char why[100];
        snprintf(why, sizeof why, "cannot be read (%s)", strerror(errno));
        fail(inquiry, path, why);
    } else if (fstat(fd, status) != 0 || !S_ISREG(status->st_mode) ||
               status->st_size > PART_SIZE_MAX) {
        fail(inquiry, path, "is not a file, or too large");
        close(fd);
        fd = -1;
    }
    return fd;
}

/* Add a file to the digest. `role` is what the compiler uses it for. */
static bool add_part(struct inquiry *inquiry, const char *role, const char *path)
{
    struct stat status;
    char build_id[BUILD_ID_TEXT_SIZE], contents[SHA256_TEXT_SIZE];
    if (!stamps_add(inquiry->stamps, path))
        return fail(inquiry, path, "is one file too many");
    int fd = open_part(inquiry, path, &status);
    if (fd < 0)
        return false;
    bool is_read = true;
    if (build_id_read(fd, build_id))
        add_line(inquiry, role, "build-id", build_id);
    else if ((is_read = digest_contents(fd, status.st_size, contents)))
        add_line(inquiry, role, "sha256", contents);
    close(fd);
    return is_read || fail(inquiry, path, "cannot be read whole");
}

/* ---- questions ---- */

static bool ask(struct inquiry *inquiry, const char *option, const char *setting)
{
    char *const argv[] = {inquiry->compiler->path, (char *)option, NULL};
    switch (query(argv, setting, now_ms() + ANSWER_MS, inquiry->answer)) {
    case QUERY_ANSWERED:
        return true;
    case QUERY_TOO_LATE:
        inquiry->failure = ID_HANGS;
        return fail(inquiry, inquiry->compiler->path, "does not say its version in time");
    case QUERY_TOO_LONG:
        inquiry->failure = ID_HANGS;
        return fail(inquiry, inquiry->compiler->path, "does not stop saying its version");
    default:
        return fail(inquiry, inquiry->compiler->path, "cannot be asked for its version");
    }
}

/* Cut the next line off. NULL at the end. */
static char *next_line(char **rest)
{
    return *rest && **rest ? strsep(rest, "\n") : NULL;
}

/* ---- what the driver says of itself ---- */

/* The longest word of a line that begins with the version: distributions add one with a revision,
 * as in `gcc version 12.2.0 (Debian 12.2.0-14)`. */
static void read_full_version(char *line, const char *version, char *full, size_t size)
{
    snprintf(full, size, "%s", version);
    for (char *word; (word = strsep(&line, " ()"));)
        if (begins_with(word, version) && strlen(word) > strlen(full))
            copy_printable(full, size, word);
}

/* Read what it says with -v. Sets name, version, target and text. */
static bool read_description(struct inquiry *inquiry, const char *word)
{
    static const char *const facts[] = {"Target: ", "Configured with: ", "Thread model: ", NULL};
    struct compiler *compiler = inquiry->compiler;
    char full[COMPILER_FIELD_SIZE] = "", *rest = inquiry->answer;
    bool is_clang = false;
    for (char *line; (line = next_line(&rest));) {
        const char *version = strstr(line, "clang version ");
        bool says_clang = version != NULL;
        if (!version && begins_with(line, "gcc version "))
            version = line;
        if (begins_with_one_of(line, facts)) {
            add_line(inquiry, "driver", "says", line);
            if (begins_with(line, facts[0]))
                copy_printable(compiler->target, sizeof compiler->target, line + strlen(facts[0]));
        } else if (version && !*compiler->version) {
            add_line(inquiry, "driver", "says", line);
            version += strlen(says_clang ? "clang version " : "gcc version ");
            snprintf(compiler->version, sizeof compiler->version, "%.*s",
                     (int)strspn(version, "0123456789."), version);
            read_full_version(line, compiler->version, full, sizeof full);
            is_clang = says_clang;
        }
    }
    const char *target = compiler->target;
    if (!*compiler->version || !*target || strspn(target, driver_word_characters) != strlen(target))
        return fail(inquiry, word, "is not a compiler that the farm knows");
    if (!(is_clang ? driver_name_clang(compiler) : driver_name_gcc(word, compiler)))
        return false;
    snprintf(compiler->text, sizeof compiler->text, "%s %s (%s)", compiler->name, full,
             compiler->target);
    return true;
}

/* Add a configuration file of clang. Files that it includes would be parts, too, but that is so
 * rare that they are not looked for. */
static bool add_settings(struct inquiry *inquiry, const char *path)
{
    static char text[SETTINGS_SIZE_MAX];
    struct stat status;
    if (!add_part(inquiry, "configuration", path))
        return false;
    int fd = open_part(inquiry, path, &status);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text);
    if (fd >= 0)
        close(fd);
    if (length < 0 || length == sizeof text)
        return fail(inquiry, path, "cannot be read whole");
    for (ssize_t i = 0; i < length; i++)
        if (text[i] == '@' && (i == 0 || strchr(" \t\r\n", text[i - 1])))
            return fail(inquiry, path, "includes other files, which the farm does not know");
    return true;
}

/* Files that the driver says it reads: a specs file of gcc, configuration files of clang. A
 * directory in which clang looks for them may get one later. */
static bool add_named_files(struct inquiry *inquiry)
{
    static const char *const directories[] = {"System configuration file directory: ",
                                              "User configuration file directory: ", NULL};
    char *answer = strdup(inquiry->answer), *rest = answer;
    bool is_good = answer != NULL;
    for (char *line; is_good && (line = next_line(&rest));) {
        const char *specs = "Reading specs from ", *settings = "Configuration file: ";
        if (begins_with(line, specs))
            is_good = add_part(inquiry, "specs", line + strlen(specs));
        else if (begins_with(line, settings))
            is_good = add_settings(inquiry, line + strlen(settings));
        for (const char *const *each = directories; *each; each++)
            if (is_good && begins_with(line, *each))
                is_good = stamps_add(inquiry->stamps, line + strlen(*each));
    }
    free(answer);
    return is_good;
}

/* ---- gcc ---- */

enum found { FOUND, NOT_FOUND, NO_ANSWER };

/* Find a program that gcc runs. gcc says its path; or only its name, if it is not in gcc's own
 * directories. Then it is looked up in PATH, as gcc does. */
static enum found find_program(struct inquiry *inquiry, const char *name,
                               char path[COMPILER_PATH_SIZE])
{
    char option[64];
    snprintf(option, sizeof option, "-print-prog-name=%s", name);
    if (!ask(inquiry, option, NULL))
        return NO_ANSWER;
    char *answer = inquiry->answer;
    answer[strcspn(answer, "\n")] = 0;
    if (!strchr(answer, '/'))
        return driver_find_tool(name, inquiry->stamps, path) ? FOUND : NOT_FOUND;
    return snprintf(path, COMPILER_PATH_SIZE, "%s", answer) < COMPILER_PATH_SIZE ? FOUND
                                                                                 : NO_ANSWER;
}

static bool add_program(struct inquiry *inquiry, const char *name, char path[COMPILER_PATH_SIZE])
{
    switch (find_program(inquiry, name, path)) {
    case FOUND:
        return add_part(inquiry, name, path);
    case NOT_FOUND:
        return fail(inquiry, inquiry->compiler->path, "lacks one of its programs");
    default:
        return false;
    }
}

/* A gcc without cc1plus compiles C. If it gets one, that is beside cc1. */
static bool add_gcc(struct inquiry *inquiry)
{
    char cc1[COMPILER_PATH_SIZE], cc1plus[COMPILER_PATH_SIZE], as[COMPILER_PATH_SIZE];
    if (!add_program(inquiry, "cc1", cc1) || !add_program(inquiry, "as", as))
        return false;
    switch (find_program(inquiry, "cc1plus", cc1plus)) {
    case FOUND:
        return add_part(inquiry, "cc1plus", cc1plus);
    case NOT_FOUND:
        add_line(inquiry, "cc1plus", "is", "missing");
        snprintf(cc1plus, sizeof cc1plus, "%.*scc1plus", (int)(base_name(cc1) - cc1), cc1);
        return stamps_add(inquiry->stamps, cc1plus);
    default:
        return false;
    }
}

/* ---- clang ---- */

static int compare_texts(const void *one, const void *other)
{
    return strcmp(*(char *const *)one, *(char *const *)other);
}

/* Add LLVM's libraries. The dynamic loader lists them as `NAME => PATH (ADDRESS)`. A clang that is
 * linked statically has none, and runs. */
static bool add_libraries(struct inquiry *inquiry)
{
    static const char *const libraries[] = {"libclang", "libLLVM", NULL};
    char *lines[LIBRARIES_MAX], *rest = inquiry->answer;
    size_t count = 0;
    if (!ask(inquiry, "-v", "LD_TRACE_LOADED_OBJECTS=1"))
        return false;
    for (char *line; (line = next_line(&rest));) {
        line += strspn(line, " \t");
        if (begins_with_one_of(line, libraries) && strstr(line, " => /") && count < LIBRARIES_MAX)
            lines[count++] = line;
    }
    qsort(lines, count, sizeof *lines, compare_texts);
    for (size_t i = 0; i < count; i++) {
        char *path = lines[i];
        const char *name = strsep(&path, " ");
        path += strlen("=> ");
        path[strcspn(path, " ")] = 0;
        if (!add_part(inquiry, name, path))
            return false;
    }
    return true;
}

/* ---- all of it ---- */

static bool is_program(struct inquiry *inquiry)
{
    char start[256];
    struct stat status;
    int fd = open_part(inquiry, inquiry->compiler->path, &status);
    if (fd < 0)
        return false;
    ssize_t length = read(fd, start, sizeof start);
    close(fd);
    /* Programs have bytes of zero in their headers. */
    return (length > 0 && memchr(start, 0, (size_t)length)) ||
           fail(inquiry, inquiry->compiler->path, "is a script, of which the farm knows nothing");
}

static bool add_all(struct inquiry *inquiry, const char *word)
{
    struct compiler *compiler = inquiry->compiler;
    char number[16];
    snprintf(number, sizeof number, "%d", FORMAT);
    add_line(inquiry, "compilefarm", "format", number);
    if (!is_program(inquiry) || !ask(inquiry, "-v", NULL) || !add_named_files(inquiry) ||
        !read_description(inquiry, word) || !add_part(inquiry, "driver", compiler->path))
        return false;
    add_line(inquiry, "driver", "is", compiler->name);
    return ends_with(compiler->name, "clang") || ends_with(compiler->name, "clang++")
               ? add_libraries(inquiry)
               : add_gcc(inquiry);
}

static void set_id(struct inquiry *inquiry)
{
    static const char last[] = "abdefabdefabdefa";
    char digest[SHA256_TEXT_SIZE], *id = inquiry->compiler->id;
    sha256_end(&inquiry->sum, digest);
    memcpy(id, digest, COMPILER_ID_SIZE - 1); /* the rest is zero already */
    char *end = id + COMPILER_ID_SIZE - 2;
    *end = last[*end <= '9' ? *end - '0' : *end - 'a' + 10];
}

enum id_result id_work_out(const char *word, struct compiler *compiler, struct stamps *stamps)
{
    static struct inquiry inquiry;
    inquiry = (struct inquiry){.compiler = compiler, .stamps = stamps, .failure = ID_NONE};
    sha256_start(&inquiry.sum);
    *compiler = (struct compiler){0};
    *stamps = (struct stamps){0};
    if (!driver_find(word, compiler, stamps) || !add_all(&inquiry, word))
        return stamps_are_current(stamps) ? inquiry.failure : ID_CHANGING;
    if (!stamps_are_current(stamps)) {
        fail(&inquiry, word, "changes at this moment");
        return ID_CHANGING;
    }
    set_id(&inquiry);
    return ID_FOUND;
}
