/* gethost's own options. See options.h.
 *
 * They end at the first word that is not an option, so in `gethost distcc gcc -O2` the -O2 is
 * gcc's.
 *
 * Rejected: getopt_long(). It accepts abbreviations, and each of them would have to work forever.
 */
#define _GNU_SOURCE
#include "options.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "array.h"
#include "say.h"

#ifndef GETHOST_VERSION
#define GETHOST_VERSION "unknown"
#endif

enum { EXIT_USAGE = 2, TYPE_LENGTH_MAX = 200 };

static const char default_servers[] = "localhost";

static const char usage[] =
    "usage: gethost [--server S] [--type T] [--wait SECONDS] [--verbose] [--] COMMAND...\n"
    "       gethost [--server S] --jobs\n"
    "       gethost --compiler-ids COMPILER...\n"
    "\n"
    "Run COMMAND, usually `distcc gcc ...`, on a CPU of the compile farm.\n"
    "\n"
    "  --server S      host-server, as host[:baseport]; several, separated by commas, are tried\n"
    "                  in order. Default: $HOST_SERVER, else localhost\n"
    "  --type T        use only hosts of this type\n"
    "  --wait SECONDS  compile here if no CPU becomes free within this time. Default: no limit\n"
    "  --jobs          print a good number of jobs for make -j\n"
    "  --compiler-ids  print what tells equal compilers from others: id, name, version, target,\n"
    "                  path and text, with tabs between; or why a compiler has no id\n"
    "  --verbose       say where the command runs and why, and show distcc's messages\n"
    "  --version, --help\n";

__attribute__((format(printf, 1, 2))) _Noreturn static void usage_error(const char *format, ...)
{
    char problem[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(problem, sizeof problem, format, arguments);
    va_end(arguments);
    say("%s; see gethost --help", problem);
    _exit(EXIT_USAGE);
}

static bool is_seconds(const char *text)
{
    size_t whole = strspn(text, "0123456789"), length = whole;
    if (text[whole] == '.') {
        size_t fraction = strspn(text + whole + 1, "0123456789");
        length = fraction ? whole + 1 + fraction : whole;
    }
    return whole > 0 && whole < 9 && length < 20 && !text[length];
}

/* Read an option that has a value: in the same word after a '=', or else in the next word, and
 * then advance to that one. Returns false if it is not such an option. */
static bool read_valued(struct options *options, char ***word)
{
    const struct {
        const char *name;
        const char **value;
    } valued[] = {{"--server", &options->servers},
                  {"--type", &options->type},
                  {"--wait", &options->wait_s}};
    const char *option = **word;
    size_t length = strcspn(option, "=");
    for (size_t i = 0; i < ARRAY_LENGTH(valued); i++) {
        if (strlen(valued[i].name) != length || strncmp(option, valued[i].name, length) != 0)
            continue;
        *valued[i].value = option[length] ? option + length + 1 : *++*word;
        if (!*valued[i].value)
            usage_error("%s needs a value", option);
        return true;
    }
    return false;
}

static void read_flag(struct options *options, const char *option)
{
    if (!strcmp(option, "--verbose"))
        say_be_verbose();
    else if (!strcmp(option, "--jobs"))
        options->jobs = true;
    else if (!strcmp(option, "--compiler-ids"))
        options->compiler_ids = true;
    else if (!strcmp(option, "--help"))
        print_and_exit(usage);
    else if (!strcmp(option, "--version"))
        print_and_exit("gethost " GETHOST_VERSION "\n");
    else
        usage_error("unknown option '%s'", option);
}

static void check(const struct options *options)
{
    const char *type = options->type, *wait_s = options->wait_s, *program = options->command[0];
    if (wait_s && !is_seconds(wait_s))
        usage_error("--wait needs a number of seconds, not '%s'", wait_s);
    if (type && (!*type || strlen(type) > TYPE_LENGTH_MAX))
        usage_error("--type needs the name of a host type, not '%s'", type);
    if (options->jobs && program)
        usage_error("--jobs cannot be used with a command ('%s')", program);
    if (!options->jobs && !program)
        usage_error("no command given");
}

struct options options_read(char **argv)
{
    struct options options = {.servers = getenv("HOST_SERVER")};
    char **word = argv + 1;
    for (; *word && (*word)[0] == '-'; word++) {
        if (!strcmp(*word, "--")) {
            word++;
            break;
        }
        if (!read_valued(&options, &word))
            read_flag(&options, *word);
    }
    options.command = word;
    if (!options.servers || !*options.servers)
        options.servers = default_servers;
    check(&options);
    return options;
}
