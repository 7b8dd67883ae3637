/* What the gethosts of one user leave for each other in files. See notes.h.
 *
 * gethost trusts these files, so no other user may be able to write to their directory. In /tmp
 * any user could have created one by that name, so its owner and mode are checked.
 *
 * Notes are for the moment, so they are kept where a session keeps its files. The cache is for
 * long, so it is kept where caches are. Each falls back on the other's place.
 *
 * This file does not know which notes there are, or what is in the cache.
 */
#define _GNU_SOURCE
#include "notes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "array.h"
#include "descriptors.h"

enum place { SESSION, DISTCC, CACHE, HOME_CACHE, TEMPORARY, PLACES };

/* False if the environment has no such place. */
static bool path_of_place(enum place place, char path[CACHE_DIRECTORY_SIZE])
{
    static const char *const variable[PLACES] = {[SESSION] = "XDG_RUNTIME_DIR",
                                                 [DISTCC] = "DISTCC_DIR",
                                                 [CACHE] = "XDG_CACHE_HOME",
                                                 [HOME_CACHE] = "HOME"};
    const char *base = variable[place] ? getenv(variable[place]) : "/tmp";
    if (!base || base[0] != '/')
        return false;
    int length;
    if (place == TEMPORARY)
        length = snprintf(path, CACHE_DIRECTORY_SIZE, "%s/compilefarm-%lu", base,
                          (unsigned long)geteuid());
    else
        length = snprintf(path, CACHE_DIRECTORY_SIZE, "%s%s/compilefarm", base,
                          place == HOME_CACHE ? "/.cache" : "");
    return length > 0 && length < CACHE_DIRECTORY_SIZE;
}

/* Is it a directory that this user owns and no other user can write to? */
static bool is_private(const struct stat *status)
{
    return S_ISDIR(status->st_mode) && status->st_uid == geteuid() &&
           !(status->st_mode & (S_IWGRP | S_IWOTH));
}

/* -1 unless it is private. */
static int open_private_directory(const char *path, bool create)
{
    if (create)
        (void)mkdir(path, 0700);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    struct stat status;
    if (fd >= 0 && (fstat(fd, &status) != 0 || !is_private(&status))) {
        close(fd);
        fd = -1;
    }
    return private_fd(fd);
}

int notes_directory(bool create)
{
    static const enum place places[] = {SESSION, DISTCC, CACHE, HOME_CACHE, TEMPORARY};
    for (size_t i = 0; i < ARRAY_LENGTH(places); i++) {
        char path[CACHE_DIRECTORY_SIZE];
        int fd = path_of_place(places[i], path) ? open_private_directory(path, create) : -1;
        if (fd >= 0)
            return fd;
    }
    return -1;
}

/* Make the directory, and the one that it is in: a new user has no ~/.cache. */
static void make_directory(char *path)
{
    if (mkdir(path, 0700) == 0 || errno != ENOENT)
        return;
    char *slash = strrchr(path, '/');
    *slash = 0;
    (void)mkdir(path, 0700);
    *slash = '/';
    (void)mkdir(path, 0700);
}

/* A directory that exists costs two system calls. If it is in /tmp, its sticky bit keeps others
 * from replacing it after the look. */
static bool find_cache(char path[CACHE_DIRECTORY_SIZE])
{
    static const enum place places[] = {CACHE, HOME_CACHE, SESSION, DISTCC, TEMPORARY};
    for (size_t i = 0; i < ARRAY_LENGTH(places); i++) {
        struct stat status;
        if (!path_of_place(places[i], path))
            continue;
        if (lstat(path, &status) != 0) {
            make_directory(path);
            if (lstat(path, &status) != 0)
                continue;
        }
        if (is_private(&status) && access(path, W_OK | X_OK) == 0)
            return true;
    }
    return false;
}

bool cache_directory(char path[CACHE_DIRECTORY_SIZE])
{
    static char found[CACHE_DIRECTORY_SIZE];
    if (!*found && !find_cache(found)) {
        *found = 0;
        return false;
    }
    strcpy(path, found);
    return true;
}
