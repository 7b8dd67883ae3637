/* gethost: run a compile on the CPU that host-server picks for it.
 *
 *     make -j64 CC="gethost distcc gcc"
 *
 * It asks host-server for a slot, names the host in DISTCC_HOSTS, runs the command, and gives the slot
 * back by closing the connection. It stays the command's parent, and that is what lets a build survive
 * its farm: a host that fails is replaced by another, and the last resort is this machine.
 *
 * It runs once per file, so start-up counts: no library but libc, no threads, no name service for a
 * numeric address, no memory freed (a process this short gives it back by ending).
 *
 * This file is the story and nothing else: it knows no protocol, no distcc variable and no signal.
 */
#include "gethost.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef GETHOST_VERSION
#define GETHOST_VERSION "unknown"
#endif

enum {
    HOSTS_TO_TRY = 3, /* a third bad host in a row is rare; by then compiling here is the quicker way */
    LEASES_TO_TRY = 12, /* in the morning the owners of many desktops come back, and no host is bad */
    EXIT_USAGE = 2,
};

static const char default_servers[] = "localhost";

static const char usage[] =
    "usage: gethost [--server S] [--type T] [--wait SECONDS] [--verbose] [--] COMMAND...\n"
    "       gethost [--server S] --jobs\n"
    "\n"
    "Run COMMAND, usually `distcc gcc ...`, on a CPU of the compile farm.\n"
    "\n"
    "  --server S      host[:baseport] of host-server; several, with commas between, are tried in order.\n"
    "                  Default: $HOST_SERVER, else localhost\n"
    "  --type T        use only hosts of this type\n"
    "  --wait SECONDS  compile here when there was no free CPU for so long. Default: wait\n"
    "  --jobs          print the -j that is worth using now\n"
    "  --verbose       say where the command runs and why, and show what distcc has to say\n"
    "  --version, --help\n";

bool verbose;

/* ---- what the other files need, too ---- */

int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int private_fd(int fd)
{
    if (fd >= 0 && fd <= STDERR_FILENO) { /* we were started with some of them closed */
        int higher = fcntl(fd, F_DUPFD, STDERR_FILENO + 1);
        close(fd);
        fd = higher;
    }
    if (fd >= 0)
        (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

bool private_pipe(int ends[2])
{
    if (pipe(ends) != 0)
        return false;
    for (int i = 0; i < 2; i++) {
        ends[i] = private_fd(ends[i]);
        (void)fcntl(ends[i], F_SETFL, O_NONBLOCK);
    }
    return true;
}

void write_all(int fd, const char *data, size_t length)
{
    while (length) {
        ssize_t written = write(fd, data, length);
        if (written >= 0) {
            data += written;
            length -= (size_t)written;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            struct pollfd watched = {.fd = fd, .events = POLLOUT};
            (void)poll(&watched, 1, -1);
        } else if (errno != EINTR) {
            return;
        }
    }
}

int message_fd(void)
{
    /* ccache stores what a compile writes to stderr, to show it again with every hit; what is only true
     * now goes to this descriptor instead. */
    const char *uncached = getenv("UNCACHED_ERR_FD");
    int fd = uncached && isdigit((unsigned char)*uncached) ? atoi(uncached) : STDERR_FILENO;
    return fcntl(fd, F_GETFD) >= 0 ? fd : STDERR_FILENO;
}

void say(const char *format, ...)
{
    char line[1024] = "gethost: ";
    size_t room = sizeof line - 1, length = strlen(line);
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(line + length, room - length, format, arguments);
    va_end(arguments);
    length = written < 0 ? length : strlen(line);
    line[length++] = '\n';
    write_all(message_fd(), line, length);
}

int builder_cpus(void)
{
    static int cpus;
    if (cpus)
        return cpus;
#ifdef __linux__
    cpu_set_t usable;
    if (sched_getaffinity(0, sizeof usable, &usable) == 0)
        cpus = CPU_COUNT(&usable);
#endif
    if (cpus < 1)
        cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (cpus < 1)
        cpus = 1;
    return cpus;
}

/* ---- options ---- */

struct options {
    const char *servers, *type, *wait_s;
    bool jobs;
    char **command;
};

_Noreturn static void usage_error(const char *problem, const char *word)
{
    say("%s '%s'; see gethost --help", problem, word);
    _exit(EXIT_USAGE);
}

_Noreturn static void print(const char *text)
{
    write_all(STDOUT_FILENO, text, strlen(text));
    _exit(0);
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

/* Options end at the first word that is none, so that `gethost distcc gcc -O2` keeps what is gcc's.
 * getopt_long() is not used: it takes abbreviations, which would become names to be kept for ever. */
static struct options read_options(char **word)
{
    struct options options = {.servers = getenv("HOST_SERVER")};
    const struct {
        const char *name;
        const char **value;
    } valued[] = {
        {"--server", &options.servers}, {"--type", &options.type}, {"--wait", &options.wait_s}};

    for (word++; *word && (*word)[0] == '-'; word++) {
        const char *option = *word;
        size_t length = strcspn(option, "=");
        bool found = false;
        for (size_t i = 0; i < ARRAY_LENGTH(valued) && !found; i++) {
            found = strlen(valued[i].name) == length && !strncmp(option, valued[i].name, length);
            if (!found)
                continue;
            *valued[i].value = option[length] ? option + length + 1 : *++word;
            if (!*valued[i].value)
                usage_error("a value must follow", option);
        }
        if (found)
            continue;
        if (!strcmp(option, "--")) {
            word++;
            break;
        } else if (!strcmp(option, "--verbose")) {
            verbose = true;
        } else if (!strcmp(option, "--jobs")) {
            options.jobs = true;
        } else if (!strcmp(option, "--help")) {
            print(usage);
        } else if (!strcmp(option, "--version")) {
            print("gethost " GETHOST_VERSION "\n");
        } else {
            usage_error("unknown option", option);
        }
    }
    options.command = word;
    if (!options.servers || !*options.servers)
        options.servers = default_servers;
    if (options.wait_s && !is_seconds(options.wait_s))
        usage_error("--wait needs a number of seconds, not", options.wait_s);
    if (options.type && (!*options.type || strlen(options.type) > 200))
        usage_error("--type needs the name of a type, not", options.type);
    if (options.jobs && *word)
        usage_error("--jobs runs no command, so it cannot take", *word);
    if (!options.jobs && !*word)
        usage_error("a command to run must follow", "gethost");
    return options;
}

/* ---- the story ---- */

_Noreturn static void print_jobs(const struct options *options)
{
    struct server server = {.fd = -1};
    char reason[REASON_SIZE], text[32];
    int count;
    if (server_jobs(&server, options->servers, &count, reason) != ANSWER_COUNT) {
        count = builder_cpus();
        say("no count from %s (%s); taking this machine's CPUs", options->servers, reason);
    }
    snprintf(text, sizeof text, "%d\n", count);
    print(text);
}

_Noreturn static void run_at_once(const struct options *options, const char *reason)
{
    if (verbose)
        say("%s runs here: %s", options->command[0], reason);
    run_instead(options->command, environment_for_local());
}

/* It was to run on the farm, perhaps with 500 others. */
_Noreturn static void run_here(const struct options *options, const char *reason)
{
    local_take_turn();
    run_at_once(options, reason);
}

/* Get a lease, or run the command here. */
static void get_lease(const struct options *options, const struct request *request,
                      struct server *server)
{
    const struct lease *lease = &server->lease;
    char reason[REASON_SIZE];
    const char *servers = options->servers;
    bool news;
    switch (server_request(server, request, reason, &news)) {
    case ANSWER_LEASE:
        if (verbose)
            say("lease %s: %s (%s port %d, %d slots)", lease->id, lease->host, lease->address,
                lease->port, lease->slots);
        return;
    case ANSWER_REFUSED:
        /* With --wait, or after a host failed, it is to be expected. */
        if (!verbose && !options->wait_s && !*request->avoid && away_is_first_refusal(servers))
            say("compiling here: host-server refuses (%s)", reason);
        break;
    default:
        if (news && !verbose)
            say("compiling here: no host-server at %s (%s)", servers, reason);
    }
    run_here(options, reason);
}

_Noreturn static void finish(const struct outcome *outcome, struct server *server)
{
    if (outcome->signal)
        server_close(server);
    else
        server_done(server, outcome->backup_id, outcome->exit_status, outcome->wall_s, outcome->cpu_s);
    write_all(STDERR_FILENO, outcome->text, outcome->text_length);
    if (outcome->signal)
        run_end_by_signal(outcome->signal);
    _exit(outcome->exit_status);
}

static void avoid(struct request *request, const char *host)
{
    size_t length = strlen(request->avoid);
    snprintf(request->avoid + length, sizeof request->avoid - length, "%s%s", length ? "," : "", host);
}

_Noreturn static void run_on_the_farm(const struct options *options, const struct command *command)
{
    struct request request = {.servers = options->servers,
                              .type = options->type,
                              .wait_s = options->wait_s,
                              .source = command->source,
                              .compiler = command->compiler,
                              .backup = command->repeatable && environment_lets_repeat()};
    bool keep_text = command->kind == COMMAND_COMPILE && !environment_wants_distcc_log();
    int bad_hosts = 0;
    for (int tried = 0; tried < LEASES_TO_TRY && bad_hosts < HOSTS_TO_TRY; tried++) {
        struct server server = {.fd = -1};
        const struct lease *lease = &server.lease;
        get_lease(options, &request, &server);
        struct outcome outcome = run_with_lease(options->command, command, &server, keep_text);
        if (outcome.went_by_mark) { /* that says nothing of the host; if it is dead, it refuses again */
            free(outcome.text);
            outcome = run_with_lease(options->command, command, &server, keep_text);
        }
        enum verdict verdict = command_judge(command, outcome.exit_status);

        /* A compile that ended well in the moment of its revocation has ended well. */
        bool ended = !outcome.signal && verdict == VERDICT_FINAL;
        if (ended || (outcome.signal && !outcome.revoked))
            finish(&outcome, &server);
        if (outcome.revoked) {
            server_close(&server);
        } else if (verdict == VERDICT_HOST_FAILED) {
            bad_hosts++;
            snprintf(outcome.reason, sizeof outcome.reason, "distcc exit status %d", outcome.exit_status);
            server_failed(&server, outcome.exit_status, outcome.reason);
        } else {
            server_close(&server);
            run_here(options, "distcc does not work on this machine");
        }
        if (verbose)
            say("%s is of no use: %s", lease->host, outcome.reason);
        free(outcome.text);
        avoid(&request, lease->host);
        request.backup = request.backup && !outcome.backup_is_no_use;
    }
    run_here(options, bad_hosts ? "several hosts failed" : "it was taken from many hosts");
}

int main(int argc, char **argv)
{
    (void)argc;
    struct options options = read_options(argv);
    if (options.jobs)
        print_jobs(&options);

    const char *program = options.command[0];
    int missing = command_missing(program);
    if (missing) {
        say("cannot run %s: %s; check the command after gethost, and PATH", program,
            missing == 127 ? "not found" : "not an executable file");
        _exit(missing);
    }
    if (environment_is_nested()) {
        extern char **environ;
        if (verbose)
            say("%s runs as it is: another gethost or distcc has decided", program);
        run_instead(options.command, environ);
    }
    struct command command = command_read(options.command);
    if (command.kind == COMMAND_LOCAL && !command.compiles)
        run_at_once(&options, command.reason); /* a link, say: how many there are was make's to decide */
    if (command.kind == COMMAND_LOCAL)
        run_here(&options, command.reason);
    if (command.kind == COMMAND_COMPILE && !environment_distcc_can_work())
        run_here(&options, "distcc cannot write in $DISTCC_DIR or ~/.distcc");
    run_on_the_farm(&options, &command);
}
