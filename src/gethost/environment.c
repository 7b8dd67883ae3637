/* The environment is all that gethost can tell distcc.
 *
 * With a lease, distcc gets one host and no alternative. distcc's own alternative is this
 * machine, and 40 compiles that fall back to it at once are the overload that a farm should
 * prevent. gethost has a better one: the next host. Hence these settings:
 *
 *   DISTCC_HOSTS
 *       The host. Besides it, as many preprocessors at once as this machine has CPUs: distcc takes
 *       the host's slot before it waits for its turn to preprocess.
 *   DISTCC_FALLBACK=0
 *       Do not compile here if the host fails.
 *   DISTCC_SKIP_LOCAL_RETRY=1
 *       Do not compile here once more if the source has an error. Without it, DISTCC_FALLBACK=0
 *       turns a syntax error into a failure of the host.
 *   DISTCC_BACKOFF_PERIOD=1
 *       Seconds for which distcc avoids a host that failed. host-server decides which hosts to
 *       avoid, but 0 makes distcc 3.4 retry a dead host forever.
 *   DISTCC_PAUSE_TIME_MSEC=20
 *       How often to look for a free slot of this machine. distcc's default of 1000 leaves the
 *       machine idle between short jobs. The user's value wins.
 *   DISTCC_IO_TIMEOUT=3600
 *       Seconds without a byte from the host, which sends none until the compile ends. With
 *       distcc's default of 300, a longer compile would fail on one host after the other.
 *       host-server finds the hosts that never answer. The user's value wins.
 *   DISTCC_LOG=/dev/null
 *       distcc's messages about a failed host would look like a failed build. The compiler's
 *       messages do not go there. A user who asked for distcc's messages gets them.
 *
 * This file does not know servers or signals.
 */
#define _GNU_SOURCE
#include "environment.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpus.h"
#include "say.h"

extern char **environ;

#define NESTED "GETHOST_NESTED"

static const char pause_time[] = "DISTCC_PAUSE_TIME_MSEC", io_timeout[] = "DISTCC_IO_TIMEOUT";
enum { SETTINGS_MAX = 8 };

/* ---- what it says to gethost ---- */

bool environment_is_nested(void)
{
    /* distcc sets its own variable for the compiler it runs, and would report us as a recursion. */
    return getenv(NESTED) || getenv("_DISTCC_SAFEGUARD");
}

bool environment_wants_distcc_log(void)
{
    const char *log = getenv("DISTCC_LOG"), *chatty = getenv("DISTCC_VERBOSE");
    return say_is_verbose() || (log && log[0]) || (chatty && chatty[0] && strcmp(chatty, "0") != 0);
}

/* In pump mode, distcc's include server takes part in the compile. The other two variables make
 * the preprocessor write dependencies without any option. */
bool environment_adds_outputs(void)
{
    return getenv("INCLUDE_SERVER_PORT") || getenv("DEPENDENCIES_OUTPUT") ||
           getenv("SUNPRO_DEPENDENCIES");
}

/* ---- what it says to distcc ---- */

static bool sets_same_variable(const char *setting, const char *variable)
{
    size_t length = strcspn(setting, "=") + 1;
    return strncmp(setting, variable, length) == 0;
}

/* The inherited environment with some settings ("NAME=value") replaced or added. */
static char **environment_with(const char *settings[], size_t count)
{
    size_t inherited = 0, kept = 0;
    while (environ[inherited])
        inherited++;
    char **result = malloc((inherited + count + 1) * sizeof *result);
    if (!result) {
        say("out of memory");
        _exit(126);
    }
    for (size_t i = 0; i < inherited; i++) {
        bool replaced = false;
        for (size_t j = 0; j < count && !replaced; j++)
            replaced = sets_same_variable(settings[j], environ[i]);
        if (!replaced)
            result[kept++] = environ[i];
    }
    for (size_t j = 0; j < count; j++)
        result[kept++] = (char *)settings[j];
    result[kept] = NULL;
    return result;
}

/* Slots for what distcc decides to run here, mostly links. Compiles that run here use the same
 * lock files, and there are as many of them as CPUs. With twice that number, a link never waits
 * for a compile. 4 is distcc's default. */
static int local_slots(void)
{
    int cpus = builder_cpus();
    return cpus > 2 ? 2 * cpus : 4;
}

static size_t common_settings(const char *settings[])
{
    size_t count = 0;
    settings[count++] = NESTED "=1";
    if (!getenv(pause_time))
        settings[count++] = "DISTCC_PAUSE_TIME_MSEC=20";
    return count;
}

char **environment_for_lease(const struct lease *lease)
{
    static char hosts[200];
    bool is_ipv6 = strchr(lease->address, ':') != NULL;
    snprintf(hosts, sizeof hosts, "DISTCC_HOSTS=%s%s%s:%d/%d --localslots=%d --localslots_cpp=%d",
             is_ipv6 ? "[" : "", lease->address, is_ipv6 ? "]" : "", lease->port, lease->slots,
             local_slots(), builder_cpus());

    const char *settings[SETTINGS_MAX];
    size_t count = common_settings(settings);
    settings[count++] = hosts;
    settings[count++] = "DISTCC_FALLBACK=0";
    settings[count++] = "DISTCC_SKIP_LOCAL_RETRY=1";
    settings[count++] = "DISTCC_BACKOFF_PERIOD=1";
    if (!getenv(io_timeout))
        settings[count++] = "DISTCC_IO_TIMEOUT=3600";
    if (!environment_wants_distcc_log())
        settings[count++] = "DISTCC_LOG=/dev/null";
    return environment_with(settings, count);
}

char **environment_for_local(void)
{
    static char hosts[100];
    snprintf(hosts, sizeof hosts, "DISTCC_HOSTS=localhost/%d --localslots=%d --localslots_cpp=%d",
             builder_cpus(), local_slots(), local_slots());

    const char *settings[SETTINGS_MAX];
    size_t count = common_settings(settings);
    settings[count++] = hosts;
    return environment_with(settings, count);
}

/* ---- distcc's directory ---- */

/* Write the path of distcc's directory with `name` appended. False if distcc has no directory, or
 * the path is too long. */
static bool path_in_distcc_dir(char *path, size_t size, const char *name)
{
    const char *own = getenv("DISTCC_DIR"), *home = getenv("HOME");
    int length = -1;
    if (own)
        length = snprintf(path, size, "%s%s", own, name);
    else if (home)
        length = snprintf(path, size, "%s/.distcc%s", home, name);
    return length > 0 && (size_t)length < size;
}

static bool path_of_backoff(char *path, size_t size, const struct lease *lease)
{
    char name[128];
    snprintf(name, sizeof name, "/lock/backoff_tcp_%s_%d_0", lease->address, lease->port);
    return path_in_distcc_dir(path, size, name);
}

bool environment_has_backoff(const struct lease *lease)
{
    char path[4096];
    return path_of_backoff(path, sizeof path, lease) && access(path, F_OK) == 0;
}

/* host-server has just granted the host, and knows better. The mark may be about something else,
 * such as a compiler that the host does not have. */
void environment_remove_backoff(const struct lease *lease)
{
    char path[4096];
    if (path_of_backoff(path, sizeof path, lease))
        (void)unlink(path);
}

/* distcc creates ~/.distcc and the directory "lock" in it, but neither $DISTCC_DIR nor the home.
 * Package builders set HOME to a directory that does not exist. */
bool environment_has_distcc_dir(void)
{
    char path[4096];
    const char *home = getenv("HOME");
    return (path_in_distcc_dir(path, sizeof path, "/lock") && access(path, W_OK) == 0) ||
           (path_in_distcc_dir(path, sizeof path, "") && access(path, W_OK) == 0) ||
           (!getenv("DISTCC_DIR") && home && access(home, W_OK) == 0);
}
