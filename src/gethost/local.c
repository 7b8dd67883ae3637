/* Compiling on this machine: all its gethosts together run at most as many compiles as it has
 * CPUs.
 *
 * `make -j500` is meant for a farm. Without a server, its 500 compiles all run here. distcc's own
 * locks would limit them poorly: each user and DISTCC_DIR has its own set, and a waiting distcc
 * looks again 50 times a second.
 *
 * So on a machine with N CPUs there are N locks: bytes 1 to N of one file. A process that takes
 * one of them becomes the compile. Such a lock belongs to the process, not to the descriptor. It
 * survives execve(), no child inherits it, and the kernel releases it however the process ends.
 *
 * A process cannot wait for "any of N locks". So if all are taken, gethosts queue for one more
 * lock, of which each user has one. Only the head of the queue tries the N locks. When a compile
 * ends, the kernel closes its descriptor of the file, and inotify wakes the heads. Without
 * inotify, a head tries again every few milliseconds.
 *
 * Rejected: a System V semaphore with SEM_UNDO. It does all this in one call, but any user of the
 * machine could set it to 0 for good. With these locks, another user can at worst hold all of
 * them. Then one of our compiles goes ahead every minute. The queue's file is in a directory that
 * only this user can write to.
 *
 * This file does not know servers, distcc, or why the compile runs here.
 */
#define _GNU_SOURCE
#include "local.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/inotify.h>
#endif

#include "clock.h"
#include "cpus.h"
#include "descriptors.h"
#include "notes.h"
#include "say.h"

/* Not in $TMPDIR, which may differ from user to user and from program to program. */
static const char shared_file[] = "/tmp/compilefarm-cpus";

enum {
    LOWEST_DESCRIPTOR = 200,  /* the command inherits it: scripts use lower numbers */
    LOOK_AGAIN_MS = 250,      /* with inotify, which should have woken us before */
    LOOK_OFTEN_MS = 10,       /* without inotify */
    FOREIGN_LOCKS_MS = 60000, /* go ahead after this time if other users hold all locks */
};

static const char *lock_file_name(void)
{
    const char *named = getenv("GETHOST_LOCK_FILE");
    return named && *named ? named : shared_file;
}

/* Open a regular file only to lock it. Another user may own it, so it is never read or written. */
static int open_lock_file(int directory, const char *name, mode_t mode)
{
    const int flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    struct stat status;
    /* First without O_CREAT: kernels refuse that for a file of another user in /tmp. */
    int fd = openat(directory, name, flags);
    if (fd < 0 && errno == ENOENT) {
        fd = openat(directory, name, flags | O_CREAT | O_EXCL, 0600);
        if (fd >= 0)
            (void)fchmod(fd, mode);
        else if (errno == EEXIST) /* another gethost has just created it */
            fd = openat(directory, name, flags);
    }
    if (fd >= 0 && (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* Open the file shared by all users, or else one of this user alone.
 * Returns -1 if neither can be opened; then only distcc's own locks limit the compiles. */
static int open_locks(int directory)
{
    int fd = open_lock_file(AT_FDCWD, lock_file_name(), 0666);
    if (fd < 0 && directory >= 0)
        fd = open_lock_file(directory, "cpus", 0600);
    if (fd < 0)
        return -1;
    int higher = fcntl(fd, F_DUPFD, LOWEST_DESCRIPTOR);
    if (higher < 0) /* the limit on open files is lower than that */
        return fd;
    close(fd); /* closing would release our locks, but we hold none yet */
    return higher;
}

static struct flock lock_of_byte(int byte)
{
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
}

enum taken { TAKEN, NONE_FREE, CANNOT_LOCK };

static enum taken take_any_lock(int locks, int cpus)
{
    int first = (int)getpid() % cpus;
    for (int i = 0; i < cpus; i++) {
        struct flock lock = lock_of_byte(1 + (first + i) % cpus);
        if (fcntl(locks, F_SETLK, &lock) == 0)
            return TAKEN;
        if (errno != EACCES && errno != EAGAIN)
            return CANNOT_LOCK;
    }
    return NONE_FREE;
}

/* A lock counts as another user's if its process cannot be seen. */
static bool others_hold_all_locks(int locks, int cpus)
{
    for (int byte = 1; byte <= cpus; byte++) {
        struct flock lock = lock_of_byte(byte);
        char process[32];
        struct stat status;
        if (fcntl(locks, F_GETLK, &lock) != 0 || lock.l_type == F_UNLCK)
            return false;
        snprintf(process, sizeof process, "/proc/%ld", (long)lock.l_pid);
        if (stat(process, &status) == 0 && status.st_uid == geteuid())
            return false;
    }
    return true;
}

/* A descriptor that becomes readable when a process closes the file; -1 without inotify. */
static int watch_lock_file(void)
{
#ifdef __linux__
    int watch = private_fd(inotify_init1(IN_NONBLOCK));
    if (watch >= 0 && inotify_add_watch(watch, lock_file_name(), IN_CLOSE_WRITE) < 0) {
        close(watch);
        watch = -1;
    }
    return watch;
#else
    return -1;
#endif
}

static void wait_at_head_of_queue(int locks, int cpus)
{
    struct pollfd watched = {.fd = watch_lock_file(), .events = POLLIN};
    int64_t deadline_ms = now_ms() + FOREIGN_LOCKS_MS;
    while (take_any_lock(locks, cpus) == NONE_FREE) {
        if (now_ms() >= deadline_ms) {
            if (others_hold_all_locks(locks, cpus))
                break;
            deadline_ms = now_ms() + FOREIGN_LOCKS_MS;
        }
        char events[4096];
        (void)poll(&watched, 1, watched.fd < 0 ? LOOK_OFTEN_MS : LOOK_AGAIN_MS);
        while (watched.fd >= 0 && read(watched.fd, events, sizeof events) > 0)
            ;
    }
    if (watched.fd >= 0)
        close(watched.fd);
}

void local_take_turn(void)
{
    int cpus = builder_cpus(), directory = notes_directory(true);
    int locks = open_locks(directory);
    if (locks >= 0 && take_any_lock(locks, cpus) == NONE_FREE) {
        say_verbosely("all %d CPUs of this machine are compiling: waiting for one", cpus);
        struct flock head = lock_of_byte(0);
        int queue = directory < 0 ? -1 : private_fd(open_lock_file(directory, "queue", 0600));
        while (queue >= 0 && fcntl(queue, F_SETLKW, &head) != 0 && errno == EINTR)
            ;
        wait_at_head_of_queue(locks, cpus);
        if (queue >= 0)
            close(queue); /* makes the next gethost the head */
    }
    if (directory >= 0)
        close(directory);
}
