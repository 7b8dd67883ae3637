/* Remembers, from one compile to the next, that a server is away.
 *
 * gethost runs once per file. Without a memory, each of 400 compiles would wait for a server that
 * does not answer. The memory is one empty file per server, the marker, and its age counts:
 *
 *   fresh      The server is not asked.
 *   stale      The first gethost that sees it makes it fresh again, and only then asks the server.
 *              The gethosts that run at the same time do not wait: they use the next server of the
 *              list, or compile here.
 *   forgotten  The marker is from an earlier build.
 *
 * An answer from the server removes the marker. The gethost that creates it tells the user, so
 * there is one message per absence.
 *
 * The marker is a convenience: if it cannot be written, everything works, only slower.
 *
 * Rejected: a daemon. It would know more, but needs a socket, and has to be started and stopped.
 *
 * This file does not know what a server is.
 */
#define _GNU_SOURCE
#include "away.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "notes.h"

enum {
    FRESH_S = 10,      /* a restart of the server takes less than two of these periods */
    FORGOTTEN_S = 300, /* the user saw the message of an older marker long ago */
    REFUSAL_S = 60,    /* between two messages about refusals */
    BUILD_GAP_S = 60,  /* after this time without such a compile, the next is of another build */
};

struct marker {
    int directory; /* -1: no usable place */
    char name[40];
};

/* `kind` and `server` together name the marker. */
static struct marker open_marker(const char *kind, const char *server, bool create)
{
    struct marker marker = {.directory = notes_directory(create)};
    uint64_t hash = 14695981039346656037u; /* FNV-1a, not for security */
    for (const char *c = server; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    snprintf(marker.name, sizeof marker.name, "%s-%016llx", kind, (unsigned long long)hash);
    return marker;
}

static void close_marker(const struct marker *marker)
{
    if (marker->directory >= 0)
        close(marker->directory);
}

/* Seconds since the marker was written; -1 if there is none.
 *
 * A time stamp far in the future counts as forgotten. One slightly in the future counts as new.
 * The file system's clock may be a moment ahead of time(), and correcting a clock may set it
 * back. */
static long marker_age_s(const struct marker *marker)
{
    struct stat status;
    if (marker->directory < 0 ||
        fstatat(marker->directory, marker->name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return -1;
    long age_s = (long)(time(NULL) - status.st_mtime);
    return age_s < -FRESH_S ? FORGOTTEN_S : age_s < 0 ? 0 : age_s;
}

/* Create the marker or make it fresh. True: it did not exist, or there is no place for it. */
static bool touch_marker(const struct marker *marker)
{
    if (marker->directory < 0)
        return true;
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
    int fd = openat(marker->directory, marker->name, flags, 0600);
    if (fd >= 0) {
        close(fd);
        return true;
    }
    bool existed = errno == EEXIST;
    (void)utimensat(marker->directory, marker->name, NULL, AT_SYMLINK_NOFOLLOW);
    return !existed;
}

static void remove_marker(const struct marker *marker)
{
    if (marker->directory >= 0)
        (void)unlinkat(marker->directory, marker->name, 0);
}

bool away_is_marked(const char *server)
{
    struct marker marker = open_marker("away", server, false);
    long age_s = marker_age_s(&marker);
    if (age_s >= FORGOTTEN_S)
        remove_marker(&marker);
    else if (age_s >= FRESH_S)
        (void)touch_marker(&marker);
    close_marker(&marker);
    return age_s >= 0 && age_s < FRESH_S;
}

bool away_mark(const char *server)
{
    struct marker marker = open_marker("away", server, true);
    bool is_new = touch_marker(&marker);
    close_marker(&marker);
    return is_new;
}

void away_unmark(const char *server)
{
    struct marker marker = open_marker("away", server, false);
    remove_marker(&marker);
    close_marker(&marker);
}

bool away_is_first_refusal(const char *servers)
{
    struct marker marker = open_marker("refused", servers, true);
    if (marker_age_s(&marker) >= REFUSAL_S)
        remove_marker(&marker);
    bool is_new = touch_marker(&marker);
    close_marker(&marker);
    return is_new;
}

bool away_is_first_in_build(const char *message)
{
    char about[1024];
    snprintf(about, sizeof about, "%ld %s", (long)getsid(0), message);
    struct marker marker = open_marker("told", about, true);
    if (marker_age_s(&marker) >= BUILD_GAP_S)
        remove_marker(&marker);
    bool is_first = touch_marker(&marker);
    close_marker(&marker);
    return is_first;
}
