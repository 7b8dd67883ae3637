/* A door: the name under which a compile is sent to a host. See door.h.
 *
 * distcc runs the preprocessor by the same name by which it sends the compile. So on this machine
 * the name is a link to the compiler.
 *
 * gcc does not notice. But clang takes the directories of its headers from the place that it is
 * called at. The names of headers in debug information and dependencies would differ from those of
 * a local compile. So for clang the name is a link to gethost, which becomes clang under clang's
 * own name. That costs half a millisecond, which is little beside clang's own start.
 *
 * With -no-canonical-prefixes, gcc looks for its programs from the place that it is called at, on
 * this machine and on the host. Such a compile goes through no door.
 *
 * This file does not know how a compiler is identified.
 */
#define _GNU_SOURCE
#include "door.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "notes.h"
#include "say.h"
#include "text.h"

enum { DASH_AND_ID = COMPILER_ID_SIZE, LINK_PATH_SIZE = CACHE_DIRECTORY_SIZE + 400 };

/* ---- names ---- */

/* The letters keep the name of another program from getting in front of PATH. */
bool door_is_name(const char *name)
{
    static const char characters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                     "0123456789_.+-";
    size_t length = strlen(name);
    if (length <= DASH_AND_ID || length >= DOOR_SIZE || strchr("-.", name[0]) ||
        strspn(name, characters) != length)
        return false;
    const char *id = name + length - DASH_AND_ID;
    return *id == '-' && strspn(id + 1, "0123456789abcdef") == DASH_AND_ID - 1;
}

static bool is_door_to(const char *name, const struct compiler *compiler)
{
    size_t length = strlen(compiler->name);
    return door_is_name(name) && strncmp(name, compiler->name, length) == 0 &&
           strlen(name) == length + DASH_AND_ID;
}

/* ---- links ---- */

static bool leads_to(const char *link, const char *target)
{
    char found[COMPILER_PATH_SIZE];
    ssize_t length = readlink(link, found, sizeof found);
    return length == (ssize_t)strlen(target) && memcmp(found, target, (size_t)length) == 0;
}

/* Make or replace a link. At no time does it lead to nothing. */
static bool make_link(const char *folder, const char *link, const char *target)
{
    char new_link[LINK_PATH_SIZE + 32];
    if (leads_to(link, target))
        return true;
    (void)mkdir(folder, 0700);
    snprintf(new_link, sizeof new_link, "%s.%ld", link, (long)getpid());
    (void)unlink(new_link);
    if (symlink(target, new_link) == 0 && rename(new_link, link) == 0)
        return true;
    int error = errno;
    (void)unlink(new_link);
    errno = error;
    return false;
}

static bool is_clang(const struct compiler *compiler)
{
    return ends_with(compiler->name, "clang") || ends_with(compiler->name, "clang++");
}

const char *door_obstacle(const struct compiler *compiler, char *const argv[])
{
    for (; *argv && !is_clang(compiler); argv++)
        if (!strcmp(*argv, "-no-canonical-prefixes"))
            return "with -no-canonical-prefixes, gcc looks for its programs beside its name";
    return NULL;
}

/* A door, ready for use. */
struct door {
    char folder[CACHE_DIRECTORY_SIZE + 16];
    const char *compiler; /* what the door has to become; NULL: the door is a link to it */
};

static bool make(struct door *door, const char *name, const struct compiler *compiler,
                 char *const argv[])
{
    char parent[CACHE_DIRECTORY_SIZE], link[LINK_PATH_SIZE], gethost[COMPILER_PATH_SIZE];
    const char *target = compiler->path;
    if (!is_door_to(name, compiler) || !cache_directory(parent) || strchr(parent, ':'))
        return false;
    door->compiler = NULL;
    if (is_clang(compiler)) {
        ssize_t length = readlink("/proc/self/exe", gethost, sizeof gethost - 1);
        if (length <= 0)
            return false;
        gethost[length] = 0;
        target = gethost;
        door->compiler = strchr(argv[1], '/') ? argv[1] : compiler->path;
    }
    snprintf(door->folder, sizeof door->folder, "%s/%s", parent,
             door->compiler ? "doors-by-name" : "doors");
    snprintf(link, sizeof link, "%s/%.300s", door->folder, name);
    return make_link(door->folder, link, target);
}

bool door_make(const char *name, const struct compiler *compiler, char *const argv[])
{
    struct door door;
    return make(&door, name, compiler, argv);
}

/* ---- going through ---- */

/* "NAME=value" or "NAME=value:rest", allocated. NULL if memory is short. */
static char *setting(const char *name, const char *value, const char *rest)
{
    size_t size = strlen(name) + strlen(value) + strlen(rest) + 3;
    char *text = malloc(size);
    if (text)
        snprintf(text, size, "%s=%s%s%s", name, value, *rest ? ":" : "", rest);
    return text;
}

/* Copy a list that ends with NULL, with room for three more. NULL if memory is short. */
static char **copy_list(char **list, size_t *count)
{
    for (*count = 0; list[*count];)
        ++*count;
    char **copy = calloc(*count + 4, sizeof *copy);
    if (copy)
        memcpy(copy, list, *count * sizeof *copy);
    return copy;
}

/* Without the last setting, distcc sends cc under another name, and adds a -target to the options
 * of clang that overrules a --target. */
static bool add_settings(const struct door *door, char **environment, size_t count)
{
    static char no_rewrite[] = "DISTCC_NO_REWRITE_CROSS=1";
    const char *path = getenv("PATH");
    size_t at = 0;
    while (at < count && !begins_with(environment[at], "PATH="))
        at++;
    count += at == count;
    environment[at] = setting("PATH", door->folder, path ? path : "/usr/bin:/bin");
    environment[count++] = no_rewrite;
    if (door->compiler)
        environment[count] = setting(DOOR_VARIABLE, door->compiler, "");
    return environment[at] && (!door->compiler || environment[count]);
}

bool door_use(const char *name, const struct compiler *compiler, char ***argv, char ***environment)
{
    struct door door;
    size_t words, settings;
    if (!*name || !compiler)
        return true;
    if (!make(&door, name, compiler, *argv))
        return false;
    char **new_argv = copy_list(*argv, &words);
    char **new_environment = copy_list(*environment, &settings);
    char *compiler_word = strdup(name);
    if (!new_argv || !compiler_word || !new_environment ||
        !add_settings(&door, new_environment, settings))
        return false;
    new_argv[1] = compiler_word;
    *argv = new_argv;
    *environment = new_environment;
    return true;
}

void door_pass(char **argv)
{
    const char *compiler = getenv(DOOR_VARIABLE);
    if (!compiler || !argv[0] || !door_is_name(base_name(argv[0])))
        return;
    char *program = strdup(compiler);
    (void)unsetenv(DOOR_VARIABLE);
    if (program) {
        argv[0] = program;
        execv(program, argv);
    }
    say("cannot run %s: %s", compiler, strerror(errno));
    _exit(126);
}
