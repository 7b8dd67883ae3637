/* The directory in which the gethosts of one user leave notes for each other.
 *
 * A note is a file. gethost trusts notes, so no other user may be able to write to the directory.
 * In /tmp any user could have created one by that name, so its owner and mode are checked.
 *
 * This file does not know which notes there are.
 */
#define _GNU_SOURCE
#include "notes.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "array.h"
#include "descriptors.h"

/* -1 unless it is a directory that this user owns and no other user can write to. */
static int open_private_directory(const char *path, bool create)
{
    if (create)
        (void)mkdir(path, 0700);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    struct stat status;
    if (fd >= 0 && (fstat(fd, &status) != 0 || status.st_uid != geteuid() ||
                    (status.st_mode & (S_IWGRP | S_IWOTH)))) {
        close(fd);
        fd = -1;
    }
    return private_fd(fd);
}

/* The first usable place counts. */
int notes_directory(bool create)
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
        unsigned long user = (unsigned long)geteuid();
        int length = snprintf(path, sizeof path, places[i].format, base, user);
        if (length < 0 || (size_t)length >= sizeof path)
            continue;
        int fd = open_private_directory(path, create);
        if (fd >= 0)
            return fd;
    }
    return -1;
}
