/* The state of files, by which one can tell later whether they have changed. See stamps.h.
 *
 * The time of the last change of the inode (ctime) cannot be set by a program, unlike the time of
 * the last modification. So no file that was replaced or written keeps its stamp.
 */
#define _GNU_SOURCE
#include "stamps.h"

#include <string.h>
#include <sys/stat.h>

#ifdef __APPLE__
#define st_mtim st_mtimespec
#define st_ctim st_ctimespec
#endif

static int64_t nanoseconds(struct timespec time)
{
    return (int64_t)((uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec);
}

static struct stamp take(const char *path)
{
    struct stat status;
    struct stamp stamp = {.path = path};
    if (stat(path, &status) != 0)
        return stamp;
    stamp.exists = true;
    stamp.device = status.st_dev;
    stamp.inode = status.st_ino;
    stamp.size = status.st_size;
    stamp.modified_ns = nanoseconds(status.st_mtim);
    stamp.changed_ns = nanoseconds(status.st_ctim);
    return stamp;
}

bool stamps_add(struct stamps *stamps, const char *path)
{
    for (size_t i = 0; i < stamps->count; i++)
        if (strcmp(stamps->item[i].path, path) == 0)
            return true;
    char *copy = stamps->count < STAMPS_MAX ? strdup(path) : NULL;
    if (copy)
        stamps->item[stamps->count++] = take(copy);
    return copy != NULL;
}

bool stamp_is_current(const struct stamp *was)
{
    struct stamp now = take(was->path);
    return now.exists == was->exists && now.device == was->device && now.inode == was->inode &&
           now.size == was->size && now.modified_ns == was->modified_ns &&
           now.changed_ns == was->changed_ns;
}

bool stamps_are_current(const struct stamps *stamps)
{
    for (size_t i = 0; i < stamps->count; i++)
        if (!stamp_is_current(&stamps->item[i]))
            return false;
    return true;
}
