/* Remembering, from one compile to the next, that the server is away.
 *
 * gethost runs once per file, and without a memory each of 400 files would wait for a server that does
 * not answer. The memory is an empty file for each server, whose age counts: while it is fresh, that
 * server is not asked; when it has gone stale, the one gethost that sees it first makes it fresh again
 * *before* it asks, so that the others, who run at the same time, go on compiling, here or with the next
 * server of the list. Success removes it. It is new once per absence, and who makes it tells the user.
 *
 * The file is a convenience. Where it cannot be written, everything works and is slower. A lasting process
 * would know more and need starting, stopping and a socket of its own.
 *
 * Not to be known here: what a server is.
 */
#include "gethost.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    FRESH_S = 10,      /* how long a server is left alone: a restart takes less than two of these */
    FORGOTTEN_S = 300, /* a marker as old as this is from another build: its user was told long ago */
    REFUSAL_S = 60,
};

/* A directory that is ours and that nobody else can write to. In /tmp anyone could have made it. */
static int open_private(const char *path, bool create)
{
    if (create)
        (void)mkdir(path, 0700);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    struct stat status;
    if (fd >= 0 && (fstat(fd, &status) != 0 || status.st_uid != geteuid() || (status.st_mode & 022))) {
        close(fd);
        fd = -1;
    }
    return private_fd(fd);
}

/* The first place that can be used; -1 if there is none (or none yet, unless `create`). */
static int open_directory(bool create)
{
    const struct {
        const char *base, *format;
    } places[] = {
        {getenv("XDG_RUNTIME_DIR"), "%s/compilefarm"},
        {getenv("DISTCC_DIR"), "%s/compilefarm"},
        {getenv("XDG_CACHE_HOME"), "%s/compilefarm"},
        {getenv("HOME"), "%s/.cache/compilefarm"},
        {"/tmp", "%s/compilefarm-%lu"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(places); i++) {
        char path[4096];
        const char *base = places[i].base;
        if (!base || base[0] != '/')
            continue;
        int length = snprintf(path, sizeof path, places[i].format, base, (unsigned long)geteuid());
        if (length < 0 || (size_t)length >= sizeof path)
            continue;
        int fd = open_private(path, create);
        if (fd >= 0)
            return fd;
    }
    return -1;
}

struct marker {
    int directory; /* -1: no place */
    char name[40];
};

static struct marker marker_open(const char *kind, const char *servers, bool create)
{
    struct marker marker = {.directory = open_directory(create)};
    uint64_t hash = 14695981039346656037u; /* FNV-1a: names the list, guards nothing */
    for (const char *c = servers; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    snprintf(marker.name, sizeof marker.name, "%s-%016llx", kind, (unsigned long long)hash);
    return marker;
}

static void marker_close(const struct marker *marker)
{
    if (marker->directory >= 0)
        close(marker->directory);
}

/* Seconds since the marker was touched, -1 if there is none. One from the future is as good as none; but
 * the file system's clock may be a moment ahead of time(), and a clock that is put right steps back a bit. */
static long marker_age_s(const struct marker *marker)
{
    struct stat status;
    if (marker->directory < 0 ||
        fstatat(marker->directory, marker->name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return -1;
    long age_s = (long)(time(NULL) - status.st_mtime);
    return age_s < -FRESH_S ? FORGOTTEN_S : age_s < 0 ? 0 : age_s;
}

/* True if it was not there before, or if there is no place to remember it. */
static bool marker_touch(const struct marker *marker)
{
    if (marker->directory < 0)
        return true;
    int fd = openat(marker->directory, marker->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (fd >= 0) {
        close(fd);
        return true;
    }
    bool known = errno == EEXIST;
    (void)utimensat(marker->directory, marker->name, NULL, AT_SYMLINK_NOFOLLOW);
    return !known;
}

int away_directory(void)
{
    return open_directory(true);
}

bool away_now(const char *server)
{
    struct marker marker = marker_open("away", server, false);
    long age_s = marker_age_s(&marker);
    if (age_s >= FORGOTTEN_S)
        (void)unlinkat(marker.directory, marker.name, 0);
    else if (age_s >= FRESH_S)
        (void)marker_touch(&marker);
    marker_close(&marker);
    return age_s >= 0 && age_s < FRESH_S;
}

bool away_mark(const char *server)
{
    struct marker marker = marker_open("away", server, true);
    bool news = marker_touch(&marker);
    marker_close(&marker);
    return news;
}

void away_clear(const char *server)
{
    struct marker marker = marker_open("away", server, false);
    if (marker.directory >= 0)
        (void)unlinkat(marker.directory, marker.name, 0);
    marker_close(&marker);
}

bool away_is_first_refusal(const char *servers)
{
    struct marker marker = marker_open("refused", servers, true);
    if (marker_age_s(&marker) >= REFUSAL_S)
        (void)unlinkat(marker.directory, marker.name, 0);
    bool news = marker_touch(&marker);
    marker_close(&marker);
    return news;
}
