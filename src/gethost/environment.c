/* What distcc is told, which is all that gethost can do to it: its environment.
 *
 * With a lease, distcc gets one host and no second choice. Its own second choice is this machine, and
 * taken by 40 compiles at once that is the storm which a farm is there to prevent; gethost has a better
 * one, the next host. Hence:
 *
 *   DISTCC_HOSTS            the host; and as many preprocessors at once as there are CPUs here, because
 *                           distcc takes the host's slot before it waits for one of those.
 *   DISTCC_FALLBACK=0       no compile here when the host fails.
 *   DISTCC_SKIP_LOCAL_RETRY=1  no second compile here when the source has an error. Without it, FALLBACK=0
 *                           takes a syntax error for a failure of the host.
 *   DISTCC_BACKOFF_PERIOD=1  the time, in seconds, for which distcc avoids a host that failed. Which hosts
 *                           are to be avoided is the server's business, but 0 makes distcc 3.4 try a dead
 *                           host for ever. See environment_forget_backoff.
 *   DISTCC_PAUSE_TIME_MSEC  how often to look for a free slot when this machine's are taken; distcc's own
 *                           1000 leaves the machine idle between short jobs. The user's value stays.
 *   DISTCC_IO_TIMEOUT       how long a host may say nothing: until a compile ends, it does not. After distcc's
 *                           own 300 seconds a compile of many minutes would be one that failed, on one host
 *                           after the other. A host that swallows compiles is the server's to find. The
 *                           user's value stays.
 *   DISTCC_LOG=/dev/null    distcc's remarks about a host that failed would read as if the build had. The
 *                           compiler's text does not go there. A user who asked for the remarks gets them.
 *
 * Not to be known here: servers and signals.
 */
#include "gethost.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

#define NESTED "GETHOST_NESTED"

static const char pause_time[] = "DISTCC_PAUSE_TIME_MSEC", io_timeout[] = "DISTCC_IO_TIMEOUT";
enum { SETTINGS_MAX = 8 };

bool environment_is_nested(void)
{
    /* distcc's own variable says that we are the compiler of a distcc; it would call us a loop. */
    return getenv(NESTED) || getenv("_DISTCC_SAFEGUARD");
}

bool environment_wants_distcc_log(void)
{
    const char *log = getenv("DISTCC_LOG"), *chatty = getenv("DISTCC_VERBOSE");
    return verbose || (log && log[0]) || (chatty && chatty[0] && strcmp(chatty, "0") != 0);
}

static bool sets(const char *setting, const char *variable)
{
    size_t length = strcspn(setting, "=") + 1;
    return strncmp(setting, variable, length) == 0;
}

/* The inherited environment with some settings ("NAME=value") replaced or added. */
static char **with(const char *settings[], size_t count)
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
            replaced = sets(settings[j], environ[i]);
        if (!replaced)
            result[kept++] = environ[i];
    }
    for (size_t j = 0; j < count; j++)
        result[kept++] = (char *)settings[j];
    result[kept] = NULL;
    return result;
}

/* Slots for what distcc runs here without having been told to: links, mostly. They share their lock files
 * with the local compiles, of which there are as many as CPUs; with twice that a link never waits for a
 * compile. 4 is distcc's own number. */
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
    bool six = strchr(lease->address, ':') != NULL;
    snprintf(hosts, sizeof hosts, "DISTCC_HOSTS=%s%s%s:%d/%d --localslots=%d --localslots_cpp=%d",
             six ? "[" : "", lease->address, six ? "]" : "", lease->port, lease->slots, local_slots(),
             builder_cpus());

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
    return with(settings, count);
}

char **environment_for_local(void)
{
    static char hosts[100];
    snprintf(hosts, sizeof hosts, "DISTCC_HOSTS=localhost/%d --localslots=%d --localslots_cpp=%d",
             builder_cpus(), local_slots(), local_slots());

    const char *settings[SETTINGS_MAX];
    size_t count = common_settings(settings);
    settings[count++] = hosts;
    return with(settings, count);
}

/* In pump mode distcc's include server has part in the compile, and the other two have a preprocessor
 * add its dependencies to a file, for which it needs no option. */
bool environment_lets_repeat(void)
{
    return !getenv("INCLUDE_SERVER_PORT") && !getenv("DEPENDENCIES_OUTPUT") &&
           !getenv("SUNPRO_DEPENDENCIES");
}

/* distcc's own directory; false if it has none, or one with a very long name. */
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

/* A failed host leaves a file, and until that is a second old every other distcc of this user fails at
 * once where it was sent to that host. */
static bool path_of_backoff(char *path, size_t size, const struct lease *lease)
{
    char name[128];
    snprintf(name, sizeof name, "/lock/backoff_tcp_%s_%d_0", lease->address, lease->port);
    return path_in_distcc_dir(path, size, name);
}

/* The host may have been innocent (it had no such compiler, say), and the server, who knows, has just
 * granted it: so the mark goes. */
void environment_forget_backoff(const struct lease *lease)
{
    char path[4096];
    if (path_of_backoff(path, sizeof path, lease))
        (void)unlink(path);
}

bool environment_has_backoff(const struct lease *lease)
{
    char path[4096];
    return path_of_backoff(path, sizeof path, lease) && access(path, F_OK) == 0;
}

/* distcc makes ~/.distcc and the directory "lock" in it, but neither $DISTCC_DIR nor a home. Package
 * builders set HOME to a directory that does not exist. */
bool environment_distcc_can_work(void)
{
    char path[4096];
    const char *home = getenv("HOME");
    return (path_in_distcc_dir(path, sizeof path, "/lock") && access(path, W_OK) == 0) ||
           (path_in_distcc_dir(path, sizeof path, "") && access(path, W_OK) == 0) ||
           (!getenv("DISTCC_DIR") && home && access(home, W_OK) == 0);
}
