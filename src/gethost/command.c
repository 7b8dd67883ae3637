/* What distcc would do with the command: send it to a host, or run it here? And what its end means.
 *
 * A link or a `-E` must not wait for a host that it will not use, so gethost has to know beforehand what
 * distcc decides when it runs. The rules are those of distcc 3.4, odd ones included, and are checked
 * against the real distcc by the tests. A mistake is harmless in either direction: a compile taken for a
 * link runs here, and a link taken for a compile holds a slot that it does not use.
 *
 * A command that is not distcc (a script around it, `ccache distcc gcc`, `sh -c`) is not looked into: the
 * user put gethost before it, so it gets its host. Looking for the word distcc further on was rejected,
 * because the words before it may mean that it does not run at all.
 *
 * A compile that is sent away can also run twice at the same time, on two hosts, if all that it writes is
 * known. A mistake there is not harmless, so for that the options that are known to be well are listed,
 * and one that nobody thought of is not among them.
 *
 * Not to be known here: environment, server, children.
 */
#include "gethost.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    /* A compile's @file holds some include paths. One larger than this is the object files of a link. */
    ARGUMENT_FILE_MAX = 64 * 1024,
    ARGUMENT_FILE_DEPTH = 10, /* files that name files */
};

static bool begins(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool ends(const char *text, const char *suffix)
{
    size_t length = strlen(text), want = strlen(suffix);
    return length >= want && strcmp(text + length - want, suffix) == 0;
}

static bool is_one_of(const char *word, const char *const list[])
{
    for (; *list; list++)
        if (strcmp(word, *list) == 0)
            return true;
    return false;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static bool is_source(const char *path)
{
    static const char *const extensions[] = {"i",  "ii", "c", "cc", "cpp", "cxx", "cp", "c++",
                                             "C",  "m",  "mm", "mi", "mii", "M",   NULL};
    const char *dot = strrchr(path, '.');
    return dot && is_one_of(dot + 1, extensions);
}

/* ---- finding programs ---- */

static int status_of(const char *path)
{
    struct stat status;
    if (stat(path, &status) != 0)
        return errno == EACCES ? 126 : 127;
    return S_ISREG(status.st_mode) && access(path, X_OK) == 0 ? 0 : 126;
}

int command_missing(const char *program)
{
    if (strchr(program, '/'))
        return status_of(program);
    const char *path = getenv("PATH");
    if (!path)
        path = "/usr/bin:/bin";
    int missing = 127;
    while (*program) {
        size_t length = strcspn(path, ":");
        char candidate[4096];
        int written = snprintf(candidate, sizeof candidate, "%.*s%s%s", (int)length, path,
                               length ? "/" : "", program);
        if (written > 0 && (size_t)written < sizeof candidate) {
            int status = status_of(candidate);
            if (status == 0)
                return 0;
            if (status == 126)
                missing = 126;
        }
        if (!path[length])
            break;
        path += length + 1;
    }
    return missing;
}

/* distcc looks for a compiler that is not where its path says by its name alone. */
static bool is_there(const char *compiler)
{
    return !command_missing(compiler) || (strchr(compiler, '/') && !command_missing(base_name(compiler)));
}

/* ---- words ---- */

struct words {
    const char **item; /* ends with NULL */
    size_t count, room;
};

static bool words_add(struct words *words, const char *word)
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

/* Split as a compiler splits an @file, in place: at white space, with quotes and backslashes. */
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

enum expansion { EXPANDED, NOT_A_FILE, TOO_MUCH };

static enum expansion expand(struct words *words, const char *word, int depth);

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
        text = malloc(ARGUMENT_FILE_MAX); /* never freed: the words stay in it */
        length = text ? read(fd, text, ARGUMENT_FILE_MAX - 1) : -1;
    }
    close(fd);
    if (length < 0)
        return TOO_MUCH;
    text[length] = 0;
    for (char *inner; (inner = next_word(&text));)
        if (expand(words, inner, depth + 1) == TOO_MUCH)
            return TOO_MUCH;
    return EXPANDED;
}

/* Add a word as distcc will see it: @files read, and -Wp,A,B taken apart. */
static enum expansion expand(struct words *words, const char *word, int depth)
{
    if (word[0] == '@') {
        enum expansion expansion = expand_file(words, word + 1, depth);
        if (expansion != NOT_A_FILE)
            return expansion;
    }
    if (!begins(word, "-Wp,"))
        return words_add(words, word) ? EXPANDED : TOO_MUCH;
    char *parts = strdup(word + strlen("-Wp"));
    while (parts) {
        char *part = parts + 1;
        parts = strchr(part, ',');
        if (parts)
            *parts = 0;
        if (!words_add(words, part))
            return TOO_MUCH;
        if ((!strcmp(part, "-MD") || !strcmp(part, "-MMD")) && !words_add(words, "-MF"))
            return TOO_MUCH;
    }
    return EXPANDED;
}

/* ---- distcc's rules ---- */

/* Why an option keeps the compile here; NULL if it does not. `next` is the word after it, or NULL. */
static const char *why_local(const char *option, const char *next)
{
    static const char *const native[] = {"-march=native", "-mtune=native", NULL};
    static const char *const extra_files[] = {"-fprofile-arcs", "-ftest-coverage", "--coverage",
                                              "-fprofile-correction", "-frepo", NULL};
    static const char *const dependencies[] = {"-MD", "-MMD", "-MG", "-MP", NULL};

    if (!strcmp(option, "-E"))
        return "-E preprocesses here";
    if (option[1] == 'M' && !is_one_of(option, dependencies) && !begins(option, "-MF") &&
        !begins(option, "-MT") && !begins(option, "-MQ"))
        return "-M preprocesses here";
    if (is_one_of(option, native))
        return "native code is for this machine";
    if (!strcmp(option, "-flto"))
        return "-flto leaves the work to the link";
    if (begins(option, "-Wa,") && (strstr(option, ",-a") || strstr(option, "--MD")))
        return "the assembler writes extra files";
    if (begins(option, "-specs="))
        return "the specs file is here";
    if (is_one_of(option, extra_files) || begins(option, "-fprofile-generate") ||
        begins(option, "-fprofile-use") || begins(option, "-fauto-profile") || begins(option, "-dr"))
        return "the compiler reads or writes extra files";
    /* Looking at the next word after -xLANGUAGE, too, is distcc's way. "c" stands for all that begin so. */
    if (begins(option, "-x") && next && !begins(next, "c") && !begins(next, "objective-c") &&
        !begins(next, "go"))
        return "distcc leaves -x alone";
    return NULL;
}

static struct command local(const char *reason)
{
    return (struct command){.kind = COMMAND_LOCAL, .reason = reason};
}

static bool is_configures(const char *source)
{
    return begins(base_name(source), "conftest.") || begins(base_name(source), "tmp.conftest.");
}

/* The words after `distcc` and the compiler's name. */
static struct command read_compile(const char *compiler, const char **word)
{
    const char *source = NULL, *output = NULL;
    bool compiles = false;
    for (; *word; word++) {
        const char *found = NULL; /* an output file */
        if (!strcmp(*word, "-c") || !strcmp(*word, "-S")) {
            compiles = true;
        } else if (!strcmp(*word, "-o") || !strcmp(*word, "-MF") || !strcmp(*word, "-MT") ||
                   !strcmp(*word, "-MQ")) {
            bool is_output = (*word)[1] == 'o';
            if (!*++word)
                return local("the last option lacks its argument");
            if (is_output)
                found = *word;
        } else if (begins(*word, "-o")) {
            found = *word + 2;
        } else if ((*word)[0] == '-') {
            const char *reason = why_local(*word, word[1]);
            if (reason)
                return local(reason);
        } else if (is_source(*word)) {
            if (source)
                return local("there are several source files");
            source = *word;
        } else if (ends(*word, ".o")) {
            found = *word;
        }
        if (found && output)
            return local("there are several object files");
        if (found)
            output = found;
    }
    if (!compiles)
        return local("it does not compile");
    if (!source)
        return local("there is no source file");
    if (is_configures(source))
        return local("configure's tests are compiled here");
    if (output && !strcmp(output, "-"))
        return local("the object file goes to stdout");
    if (!is_there(compiler))
        return local("there is no such compiler here");
    return (struct command){
        .kind = COMMAND_COMPILE, .source = source, .compiler = base_name(compiler)};
}

/* ---- twice at the same time ---- */

static bool is_of_kind(const char *option, const char *const prefixes[])
{
    for (; *prefixes; prefixes++)
        if (begins(option, *prefixes))
            return true;
    return false;
}

/* Does the compiler write the same files with this option as without? */
static bool is_tame(const char *option)
{
    static const char *const words[] = {
        "-ansi", "-c", "-MP", "-nostdinc", "-nostdinc++", "-nostdlib", "--param", "-pedantic",
        "-pedantic-errors", "-pg", "-pipe", "-pthread", "-Qunused-arguments", "-S", "--sysroot",
        "-target", "-v", "-w", "-Wa,--noexecstack", NULL};
    static const char *const kinds[] = {
        "-B", "-D", "-f", "-g", "-i", "-I", "-l", "-L", "-m", "-no-canonical-prefixes", "-O",
        "--param=", "-std=", "--std=", "--sysroot=", "--target=", "-U", "-W", NULL};
    /* What is of these kinds, and is not tame: */
    static const char *const wild[] = {
        /* words for a program that the compiler runs; */
        "-mllvm", "-Wa,", "-Wl,", "-Wp,",
        /* files beside the object, named after it or by the option; */
        "-fada-spec", "-fcallgraph-info", "-fcrash-diagnostics", "-fdeps", "-fdiagnostics-add-output",
        "-fdiagnostics-format", "-fdiagnostics-set-output", "-fdump", "-fopt-info",
        "-foptimization-record", "-fproc-stat-report", "-fprofile", "-freport-bug", "-fsave-",
        "-fstack-usage", "-ftime-trace", "-gen-", "-gsplit-dwarf", "-index-",
        /* files that several compiles share, some file missing, or nobody knows what. */
        "-fcompare-debug", "-fmodule", "-fpch", "-fplugin", "-fpreprocessed", "-fsyntax-only",
        "-gmodules", NULL};
    static const char *const macros[] = {"-Wp,-D", "-Wp,-U", NULL}; /* some distributions write it so */

    if (is_of_kind(option, macros) && !strchr(option + strlen("-Wp,"), ','))
        return true;
    return is_one_of(option, words) || (is_of_kind(option, kinds) && !is_of_kind(option, wild));
}

/* Can a file be renamed over it? Not over what /dev/null is, or a symbolic link. */
static bool is_replaceable(const char *path)
{
    struct stat status;
    if (lstat(path, &status) != 0)
        return errno == ENOENT;
    return S_ISREG(status.st_mode);
}

/* The command itself is read here, not what distcc makes of it: it is what a second run has to change. */
static void see_whether_repeatable(struct command *command, char **argv)
{
    bool depends = false, has_target = false;
    for (size_t word = 1; argv[word]; word++) {
        const char *option = argv[word];
        struct file_name *found = begins(option, "-o")    ? &command->object
                                  : begins(option, "-MF") ? &command->dependencies
                                                          : NULL;
        if (found) {
            size_t length = found == &command->object ? strlen("-o") : strlen("-MF");
            if (found->word || (!option[length] && !argv[word + 1]))
                return;
            *found = option[length] ? (struct file_name){word, length} : (struct file_name){++word, 0};
            if (!is_replaceable(argv[found->word] + found->from))
                return;
        } else if (begins(option, "-MT") || begins(option, "-MQ")) {
            has_target = true; /* else the object's name would be it, and that is another in a second run */
            word += !option[strlen("-MT")];
            if (!argv[word])
                return;
        } else if (!strcmp(option, "-MD") || !strcmp(option, "-MMD")) {
            depends = true;
        } else if (option[0] == '@' || (option[0] == '-' && !is_tame(option))) {
            return;
        }
    }
    /* Of a preprocessed source no dependencies are written, whatever the options. */
    bool preprocessed = ends(command->source, ".i") || ends(command->source, ".ii") ||
                        ends(command->source, ".mi") || ends(command->source, ".mii");
    bool has_file = command->dependencies.word;
    command->repeatable = command->object.word && depends == has_file &&
                          (!depends || (has_target && !preprocessed));
}

struct command command_read(char **argv)
{
    if (!strstr(base_name(argv[0]), "distcc"))
        return (struct command){.kind = COMMAND_OTHER};

    struct words words = {0};
    for (char **argument = argv + 1; *argument; argument++)
        if (expand(&words, *argument, 0) == TOO_MUCH)
            return local("its argument file is too large for a compile");
    if (!words.count)
        return local("there is nothing to compile");

    static const char *const for_distcc[] = {"--help", "--version",       "--show-hosts",
                                             "-j",     "--scan-includes", "--show-principal",
                                             NULL};
    const char *first = words.item[0];
    if (is_one_of(first, for_distcc))
        return local("it is a question to distcc");
    bool named = first[0] != '-' && !is_source(first) && !ends(first, ".o");
    struct command command = read_compile(named ? first : "cc", words.item + named);
    if (command.kind == COMMAND_COMPILE)
        see_whether_repeatable(&command, argv);
    command.compiles = is_one_of("-c", words.item) || is_one_of("-S", words.item);
    /* A configure asks hundreds of small questions, one after the other: it is not to queue with each. */
    for (const char **word = words.item; *word; word++)
        command.compiles = command.compiles && !is_configures(*word);
    return command;
}

/* ---- its end ---- */

/* distcc's own statuses are 100 and up. What it says about itself alone (bad arguments, a bad host list, a
 * loop) is no host's fault, and 128 and up is a compiler that a signal ended, which on somebody's desktop
 * means little about the source. Another program may have its own use for these numbers, so of it only
 * distcc's are taken. */
enum verdict command_judge(const struct command *command, int status)
{
    enum { DISTCC_FIRST = 100, DISTCC_LAST = 120, SHELL_SIGNAL = 128 };
    if (status < DISTCC_FIRST)
        return VERDICT_FINAL;
    if (status == 101 || status == 106 || status == 111 || status == 112)
        return VERDICT_DISTCC_FAILED;
    if (status <= DISTCC_LAST || (status >= SHELL_SIGNAL && command->kind == COMMAND_COMPILE))
        return VERDICT_HOST_FAILED;
    return VERDICT_FINAL;
}
