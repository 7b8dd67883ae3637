/* The files that a compile writes, so that it can run twice at the same time on two hosts.
 *
 * A mistake here does harm: two runs would write the same file. So an option counts as harmless
 * only if it is listed here. An option that is missing from the lists costs only the second run.
 *
 * The command line is read as it is, not as distcc expands it: a second run changes its words.
 *
 * This file does not know why a compile should run twice.
 */
#define _GNU_SOURCE
#include "outputs.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "text.h"

/* Does the compiler write the same files with this option as without it? */
static bool adds_no_files(const char *option)
{
    static const char *const exact[] = {
        "-ansi", "-c", "-MP", "-nostdinc", "-nostdinc++", "-nostdlib", "--param", "-pedantic",
        "-pedantic-errors", "-pg", "-pipe", "-pthread", "-Qunused-arguments", "-S", "--sysroot",
        "-target", "-v", "-w", "-Wa,--noexecstack", NULL};
    static const char *const prefixes[] = {
        "-B", "-D", "-f", "-g", "-i", "-I", "-l", "-L", "-m", "-no-canonical-prefixes", "-O",
        "--param=", "-std=", "--std=", "--sysroot=", "--target=", "-U", "-W", NULL};
    /* Options that begin with one of the prefixes above, but: */
    static const char *const exceptions[] = {
        /* pass words to a program that the compiler runs; */
        "-mllvm", "-Wa,", "-Wl,", "-Wp,",
        /* write files beside the object, or files that the option names; */
        "-fada-spec", "-fcallgraph-info", "-fcrash-diagnostics", "-fdeps",
        "-fdiagnostics-add-output", "-fdiagnostics-format", "-fdiagnostics-set-output", "-fdump",
        "-fopt-info", "-foptimization-record", "-fproc-stat-report", "-fprofile", "-freport-bug",
        "-fsave-", "-fstack-usage", "-ftime-trace", "-gen-", "-gsplit-dwarf", "-index-",
        /* write files that several compiles share, write no object, or have unknown effects. */
        "-fcompare-debug", "-fmodule", "-fpch", "-fplugin", "-fpreprocessed", "-fsyntax-only",
        "-gmodules", NULL};
    /* Some Linux distributions write macros like this. */
    static const char *const macros[] = {"-Wp,-D", "-Wp,-U", NULL};

    if (begins_with_one_of(option, macros) && !strchr(option + strlen("-Wp,"), ','))
        return true;
    return is_one_of(option, exact) ||
           (begins_with_one_of(option, prefixes) && !begins_with_one_of(option, exceptions));
}

/* Can rename() replace it? Renaming onto /dev/null or a symbolic link would replace that instead
 * of writing to it. */
static bool is_replaceable(const char *path)
{
    struct stat status;
    if (lstat(path, &status) != 0)
        return errno == ENOENT;
    return S_ISREG(status.st_mode);
}

/* The compiler writes no dependencies of such a source, whatever the options. */
static bool is_preprocessed(const char *source)
{
    return ends_with(source, ".i") || ends_with(source, ".ii") || ends_with(source, ".mi") ||
           ends_with(source, ".mii");
}

/* Read the file name of -o or -MF: in argv[*word] itself, or in the next word, and then advance
 * to that one. Returns false if there is no name, it is the second one, or cannot be replaced. */
static bool read_file_name(char **argv, size_t *word, size_t option_length, struct file_name *name)
{
    bool is_joined = argv[*word][option_length] != 0;
    if (name->word || (!is_joined && !argv[*word + 1]))
        return false;
    *name = is_joined ? (struct file_name){*word, option_length} : (struct file_name){++*word, 0};
    return is_replaceable(argv[name->word] + name->from);
}

struct outputs outputs_of(char **argv, const char *source)
{
    static const struct outputs unknown;
    struct outputs outputs = unknown;
    bool writes_dependencies = false, has_target = false;
    for (size_t word = 1; argv[word]; word++) {
        const char *option = argv[word];
        if (begins_with(option, "-o")) {
            if (!read_file_name(argv, &word, strlen("-o"), &outputs.object))
                return unknown;
        } else if (begins_with(option, "-MF")) {
            if (!read_file_name(argv, &word, strlen("-MF"), &outputs.dependencies))
                return unknown;
        } else if (begins_with(option, "-MT") || begins_with(option, "-MQ")) {
            has_target = true;
            word += !option[strlen("-MT")];
            if (!argv[word])
                return unknown;
        } else if (!strcmp(option, "-MD") || !strcmp(option, "-MMD")) {
            writes_dependencies = true;
        } else if (option[0] == '@' || (option[0] == '-' && !adds_no_files(option))) {
            return unknown;
        }
    }
    bool names_dependencies = outputs.dependencies.word != 0;
    if (!outputs.object.word || writes_dependencies != names_dependencies)
        return unknown;
    /* Without a target, the object's name would be in the dependencies, and a second run uses
     * another name. */
    if (writes_dependencies && (!has_target || is_preprocessed(source)))
        return unknown;
    outputs.are_known = true;
    return outputs;
}
