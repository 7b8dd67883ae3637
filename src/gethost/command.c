/* What distcc would do with the command: send it to a host, or run it here? And what does its
 * exit status mean?
 *
 * A link or a `-E` must not wait for a host that it will not use. So gethost has to know what
 * distcc will decide. The rules here are those of distcc 3.4, odd ones included, and tests
 * compare them with the real distcc. A mistake does little harm. A compile taken for a link runs
 * here, and a link taken for a compile holds a slot without using it.
 *
 * A command that is not distcc (a wrapper script, `ccache distcc gcc`, `sh -c`) is not analysed:
 * it gets a host, because the user put gethost before it.
 *
 * Rejected: looking for the word distcc further on in the command. The words before it may mean
 * that it does not run at all.
 *
 * This file does not know environment variables other than PATH, servers, or processes.
 */
#include "command.h"

#include <string.h>

#include "program.h"
#include "text.h"
#include "words.h"

static bool is_source(const char *path)
{
    static const char *const extensions[] = {"i",  "ii", "c", "cc", "cpp", "cxx", "cp", "c++",
                                             "C",  "m",  "mm", "mi", "mii", "M",   NULL};
    const char *dot = strrchr(path, '.');
    return dot && is_one_of(dot + 1, extensions);
}

/* distcc looks up a compiler that is not at its path once more by its base name. */
static bool is_installed(const char *compiler)
{
    return !program_missing(compiler) ||
           (strchr(compiler, '/') && !program_missing(base_name(compiler)));
}

/* The test programs of configure, which distcc compiles here. */
static bool is_of_configure(const char *source)
{
    return begins_with(base_name(source), "conftest.") ||
           begins_with(base_name(source), "tmp.conftest.");
}

/* ---- distcc's rules ---- */

/* Why -M or one of its variants keeps the compile here, else NULL. */
static const char *dependencies_reason(const char *option)
{
    static const char *const compiles_too[] = {"-MD", "-MMD", "-MG", "-MP", NULL};
    static const char *const with_value[] = {"-MF", "-MT", "-MQ", NULL};

    if (is_one_of(option, compiles_too) || begins_with_one_of(option, with_value))
        return NULL;
    return begins_with(option, "-M") ? "-M only preprocesses" : NULL;
}

/* Why an option keeps the compile here, else NULL. `next` is the word after it, or NULL. */
static const char *local_reason(const char *option, const char *next)
{
    static const char *const native[] = {"-march=native", "-mtune=native", NULL};
    static const char *const extra_files[] = {"-fprofile-arcs", "-ftest-coverage", "--coverage",
                                              "-fprofile-correction", "-frepo", NULL};
    static const char *const extra_files_prefixes[] = {"-fprofile-generate", "-fprofile-use",
                                                       "-fauto-profile", "-dr", NULL};
    static const char *const languages[] = {"c", "objective-c", "go", NULL};

    if (!strcmp(option, "-E"))
        return "-E only preprocesses";
    const char *reason = dependencies_reason(option);
    if (reason)
        return reason;
    if (is_one_of(option, native))
        return "-march=native and -mtune=native mean this machine's CPU";
    if (!strcmp(option, "-flto"))
        return "-flto leaves code generation to the link";
    if (begins_with(option, "-Wa,") && (strstr(option, ",-a") || strstr(option, "--MD")))
        return "the assembler writes extra files";
    if (begins_with(option, "-specs="))
        return "the specs file is only on this machine";
    if (is_one_of(option, extra_files) || begins_with_one_of(option, extra_files_prefixes))
        return "the compiler reads or writes extra files";
    /* distcc looks at the next word after -xLANGUAGE, too, and takes any word with such a
     * beginning. */
    if (begins_with(option, "-x") && next && !begins_with_one_of(next, languages))
        return "distcc does not send this language of -x";
    return NULL;
}

static struct command local(const char *reason)
{
    return (struct command){.kind = COMMAND_LOCAL, .reason = reason};
}

/* The facts that distcc decides by. */
struct facts {
    const char *source, *output;
    bool compiles;
};

/* Note an output file. Returns why this keeps the compile here, else NULL. */
static const char *add_output(struct facts *facts, const char *path)
{
    if (facts->output)
        return "there are several object files";
    facts->output = path;
    return NULL;
}

/* Note what the next word says, and advance past it and its value.
 * Returns why this keeps the compile here, else NULL. */
static const char *read_word(struct facts *facts, const char ***words)
{
    static const char *const compile[] = {"-c", "-S", NULL};
    static const char *const with_value[] = {"-o", "-MF", "-MT", "-MQ", NULL};
    const char *word = *(*words)++;

    if (is_one_of(word, compile)) {
        facts->compiles = true;
        return NULL;
    }
    if (is_one_of(word, with_value)) {
        const char *value = **words;
        if (!value)
            return "the last option lacks its value";
        ++*words;
        return word[1] == 'o' ? add_output(facts, value) : NULL;
    }
    if (begins_with(word, "-o"))
        return add_output(facts, word + strlen("-o"));
    if (word[0] == '-')
        return local_reason(word, **words);
    if (is_source(word)) {
        if (facts->source)
            return "there are several source files";
        facts->source = word;
        return NULL;
    }
    return ends_with(word, ".o") ? add_output(facts, word) : NULL;
}

/* `words`: those after `distcc` and the compiler's name. */
static struct command read_compile(const char *compiler, const char **words)
{
    struct facts facts = {0};
    while (*words) {
        const char *reason = read_word(&facts, &words);
        if (reason)
            return local(reason);
    }
    if (!facts.compiles)
        return local("it does not compile");
    if (!facts.source)
        return local("there is no source file");
    if (is_of_configure(facts.source))
        return local("it is a test of configure");
    if (facts.output && !strcmp(facts.output, "-"))
        return local("the object file goes to stdout");
    if (!is_installed(compiler))
        return local("the compiler is not installed here");
    return (struct command){.kind = COMMAND_COMPILE,
                            .source = facts.source,
                            .compiler = base_name(compiler)};
}

/* Does a command that distcc runs here count as a compile? The tests of configure do not: they
 * are small, hundreds of them run one after the other, and none of them should queue. */
static bool compiles_here(const struct words *words)
{
    for (const char **word = words->item; *word; word++)
        if (is_of_configure(*word))
            return false;
    return is_one_of("-c", words->item) || is_one_of("-S", words->item);
}

struct command command_read(char **argv)
{
    static const char *const for_distcc[] = {"--help", "--version",       "--show-hosts",
                                             "-j",     "--scan-includes", "--show-principal",
                                             NULL};
    if (!strstr(base_name(argv[0]), "distcc"))
        return (struct command){.kind = COMMAND_OTHER};

    struct words words = {0};
    if (!words_expand(&words, argv + 1))
        return local("its argument file is too large for a compile");
    if (!words.count)
        return local("there is nothing to compile");
    const char *first = words.item[0];
    if (is_one_of(first, for_distcc))
        return local("distcc only prints something");

    bool has_compiler = first[0] != '-' && !is_source(first) && !ends_with(first, ".o");
    struct command command = read_compile(has_compiler ? first : "cc", words.item + has_compiler);
    if (command.kind == COMMAND_COMPILE)
        command.outputs = outputs_of(argv, command.source);
    command.compiles = compiles_here(&words);
    return command;
}

/* ---- its exit status ---- */

/* distcc's own statuses are 100 to 120. Some of them are about distcc itself, so no host is to
 * blame.
 *
 * From 128 on, a signal ended the compiler. On a desktop that says little about the source, so
 * another host gets the compile. A command that is not distcc may give these statuses another
 * meaning, so they are final. */
enum verdict command_judge(const struct command *command, int status)
{
    enum {
        DISTCC_FIRST = 100,
        DISTCC_BAD_ARGUMENTS = 101,
        DISTCC_BAD_HOST_LIST = 106,
        DISTCC_RECURSION = 111,
        DISTCC_SETUID_FAILED = 112,
        DISTCC_LAST = 120,
        SHELL_SIGNAL = 128,
    };
    if (status < DISTCC_FIRST)
        return VERDICT_FINAL;
    if (status == DISTCC_BAD_ARGUMENTS || status == DISTCC_BAD_HOST_LIST ||
        status == DISTCC_RECURSION || status == DISTCC_SETUID_FAILED)
        return VERDICT_DISTCC_FAILED;
    if (status <= DISTCC_LAST || (status >= SHELL_SIGNAL && command->kind == COMMAND_COMPILE))
        return VERDICT_HOST_FAILED;
    return VERDICT_FINAL;
}
