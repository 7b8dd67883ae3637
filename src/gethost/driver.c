/* A compiler's driver: the program that a command names, such as gcc. See driver.h.
 *
 * gcc does the same under every name. Its name in the file system says whether it is gcc or g++,
 * and the links to it (cc, gcc-12, x86_64-linux-gnu-gcc) do not matter.
 *
 * clang is one program, and the name that it is called by decides what it does: it ends with `++`
 * for C++, and may begin with a target. The rules are those of ToolChain.cpp in clang's driver. A
 * version at the end is dropped, because clang would misread it if more followed.
 *
 * This file does not know ids, or what is inside a compiler.
 */
#define _GNU_SOURCE
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "program.h"
#include "text.h"

const char driver_word_characters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                      "0123456789_+.-";

/* ---- finding it ---- */

static const char *search_path(void)
{
    const char *path = getenv("PATH");
    return path ? path : "/usr/bin:/bin";
}

/* Write where a name would be in the next directory of `*rest`, which advances. False at the end. A
 * path that is too long is left out. */
static bool next_place(const char **rest, const char *name, char place[COMPILER_PATH_SIZE])
{
    while (*rest) {
        int length = (int)strcspn(*rest, ":");
        int written = snprintf(place, COMPILER_PATH_SIZE, "%.*s/%s", length ? length : 1,
                               length ? *rest : ".", name);
        *rest = (*rest)[length] ? *rest + length + 1 : NULL;
        if (written > 0 && written < COMPILER_PATH_SIZE)
            return true;
    }
    return false;
}

static bool is_this_program(const char *path)
{
    struct stat own, other;
    return stat("/proc/self/exe", &own) == 0 && stat(path, &other) == 0 &&
           own.st_dev == other.st_dev && own.st_ino == other.st_ino;
}

/* Programs that are called by a compiler's name, and then run a compiler. */
static bool is_masquerade(const char *path)
{
    static const char *const names[] = {"ccache",  "distcc",  "icecc", "icecream",
                                        "sccache", "gethost", NULL};
    char *real = realpath(path, NULL);
    bool is_one = real && (is_one_of(base_name(real), names) || is_this_program(path));
    free(real);
    return is_one;
}

/* Write the absolute path of a file. */
static bool make_absolute(const char *path, char absolute[COMPILER_PATH_SIZE])
{
    char directory[COMPILER_PATH_SIZE] = "";
    if (path[0] != '/' && !getcwd(directory, sizeof directory - 1))
        return false;
    int length = snprintf(absolute, COMPILER_PATH_SIZE, "%s%s%s", directory, *directory ? "/" : "",
                          path);
    return length > 0 && length < COMPILER_PATH_SIZE;
}

static bool fail(struct compiler *compiler, const char *word, const char *why)
{
    char shown[100];
    copy_printable(shown, sizeof shown, word);
    snprintf(compiler->reason, sizeof compiler->reason, "%s %s", shown, why);
    return false;
}

static bool find_at_path(const char *word, struct compiler *compiler, struct stamps *stamps)
{
    if (!stamps_add(stamps, word) || program_missing(word) != 0)
        return fail(compiler, word, "is not an executable file");
    if (is_masquerade(word))
        return fail(compiler, word, "is not a compiler that the farm knows");
    return make_absolute(word, compiler->path) || fail(compiler, word, "has a path too long");
}

bool driver_find(const char *word, struct compiler *compiler, struct stamps *stamps)
{
    if (strchr(word, '/'))
        return find_at_path(word, compiler, stamps);
    const char *rest = search_path();
    char place[COMPILER_PATH_SIZE];
    bool has_masquerade = false;
    while (*word && next_place(&rest, word, place)) {
        if (!stamps_add(stamps, place))
            return fail(compiler, word, "has too many places in PATH");
        if (program_missing(place) != 0)
            continue;
        if (!is_masquerade(place))
            return make_absolute(place, compiler->path) ||
                   fail(compiler, word, "has a path too long");
        has_masquerade = true;
    }
    return fail(compiler, word, has_masquerade ? "is not a compiler that the farm knows"
                                               : "is not in PATH");
}

bool driver_find_tool(const char *name, struct stamps *stamps, char path[COMPILER_PATH_SIZE])
{
    const char *rest = search_path();
    char place[COMPILER_PATH_SIZE];
    while (next_place(&rest, name, place) && stamps_add(stamps, place))
        if (program_missing(place) == 0)
            return make_absolute(place, path);
    return false;
}

/* ---- its name ---- */

bool driver_name_gcc(const char *word, struct compiler *compiler)
{
    char *real = realpath(compiler->path, NULL);
    const char *names[] = {base_name(real ? real : compiler->path), base_name(word)};
    const char *found = "gcc";
    for (size_t i = 0; i < 2; i++) {
        if (strstr(names[i], "++")) {
            found = "g++";
            break;
        }
        if (strstr(names[i], "cc"))
            break;
    }
    snprintf(compiler->name, sizeof compiler->name, "%s", found);
    free(real);
    return true;
}

/* The length of the name up to the end of the part that tells clang what to do, such as `clang++`;
 * 0 if there is none. `*mode` becomes that part. */
static size_t find_mode(const char *name, const char **mode)
{
    static const char *const modes[] = {"clang++", "clang-c++", "clang-g++", "clang-cpp",
                                        "clang-cl", "clang-gcc", "clang-cc", "clang",
                                        "flang", "cpp", "cl", "cc", "++", NULL};
    size_t lengths[3] = {strlen(name)};
    lengths[1] = lengths[0]; /* without a version */
    while (lengths[1] && strchr("0123456789.", name[lengths[1] - 1]))
        lengths[1]--;
    lengths[2] = lengths[1]; /* without its last component */
    while (lengths[2] && name[lengths[2]] != '-')
        lengths[2]--;
    for (size_t i = 0; i < 3; i++)
        for (const char *const *each = modes; *each; each++) {
            size_t length = strlen(*each);
            if (lengths[i] >= length &&
                strncmp(name + lengths[i] - length, *each, length) == 0) {
                *mode = *each;
                return lengths[i];
            }
        }
    return 0;
}

/* Is the beginning of the name a target? clang asks its list of architectures. We see whether it
 * has become the architecture of the target that clang reports. */
static bool is_target(const char *name, size_t length, const char *target)
{
    size_t architecture = strcspn(target, "-"), first = strcspn(name, "-");
    return strspn(name, driver_word_characters) >= length && first <= length &&
           first == architecture && strncmp(name, target, first) == 0;
}

bool driver_name_clang(struct compiler *compiler)
{
    static const char *const other_modes[] = {"clang-cpp", "clang-cl", "flang", "cpp", "cl", NULL};
    const char *name = base_name(compiler->path), *mode = "clang";
    size_t end = find_mode(name, &mode);
    if (is_one_of(mode, other_modes))
        return fail(compiler, name, "is not called as a compiler of C or C++");
    size_t start = end - (end ? strlen(mode) : 0);
    while (start && name[start - 1] != '-')
        start--;
    int prefix = start && is_target(name, start - 1, compiler->target) ? (int)start : 0;
    snprintf(compiler->name, sizeof compiler->name, "%.*s%s", prefix, name,
             ends_with(mode, "++") ? "clang++" : "clang");
    return true;
}
