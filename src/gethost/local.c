/* Compiling here, by turns: all gethosts of this machine together run as many compiles as it has CPUs.
 *
 * make -j500 is meant for a farm. Without a server, its 500 compiles come to this machine at once, and
 * distcc's own locks are a poor throttle for that: they are one set for each user and DISTCC_DIR, and who
 * waits looks again 50 times a second. So a compile takes one of N locks, bytes 1 to N of one file, and is
 * run by the process that has it. Such a lock belongs to the process, not to the descriptor: it stays over
 * execve(), no child inherits it, and the kernel frees it however the process ends.
 *
 * Nobody can wait for whichever of N locks comes free first. So those who find none queue for one more
 * lock, of which there is one for each user, and only the head of a queue looks: when another compile
 * ends, its descriptor of the file is closed, and inotify tells. Where there is no inotify, the head alone
 * looks again from time to time.
 *
 * Rejected: a semaphore of System V with SEM_UNDO, which is all of this in one call, but which every user
 * of the machine could set to 0 for ever. Of these locks, another user can at worst hold all; then each
 * minute one of our compiles goes ahead without. The queue is in a directory that is the user's own.
 *
 * Not to be known here: servers, distcc, and why the compile is here.
 */
#include "gethost.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/inotify.h>
#endif

/* Not in $TMPDIR, which may be another for each user and program. */
static const char shared_file[] = "/tmp/compilefarm-cpus";

enum {
    DESCRIPTOR_FROM = 200, /* the command inherits it: not one of those that scripts use */
    LOOK_AGAIN_MS = 250,   /* inotify should have told; without it: */
    LOOK_OFTEN_MS = 10,
    PATIENCE_MS = 60000, /* while all locks are another user's */
};

static const char *file_name(void)
{
    const char *named = getenv("GETHOST_LOCK_FILE");
    return named && *named ? named : shared_file;
}

/* A file to lock in, and nothing else: it may be anybody's, so nothing is read from it or written to it. */
static int open_file(int directory, const char *name, mode_t mode)
{
    const int flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    struct stat status;
    /* Not O_CREAT at once: for another user's file in /tmp, kernels refuse that. */
    int fd = openat(directory, name, flags);
    if (fd < 0 && errno == ENOENT) {
        fd = openat(directory, name, flags | O_CREAT | O_EXCL, 0600);
        if (fd >= 0)
            (void)fchmod(fd, mode);
        else if (errno == EEXIST) /* another gethost was quicker */
            fd = openat(directory, name, flags);
    }
    if (fd >= 0 && (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* The file of all users; else one for this user alone; else -1, and all that is left is distcc's locks. */
static int open_locks(int directory)
{
    int fd = open_file(AT_FDCWD, file_name(), 0666);
    if (fd < 0 && directory >= 0)
        fd = open_file(directory, "cpus", 0600);
    if (fd < 0)
        return -1;
    int higher = fcntl(fd, F_DUPFD, DESCRIPTOR_FROM);
    if (higher < 0) /* only so few are allowed */
        return fd;
    close(fd); /* there is no lock yet that this could end */
    return higher;
}

static struct flock lock_at(int place)
{
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = place, .l_len = 1};
}

enum taken { TAKEN, NONE_FREE, CANNOT_LOCK };

static enum taken take_any(int locks, int cpus)
{
    int first = (int)getpid() % cpus;
    for (int i = 0; i < cpus; i++) {
        struct flock lock = lock_at(1 + (first + i) % cpus);
        if (fcntl(locks, F_SETLK, &lock) == 0)
            return TAKEN;
        if (errno != EACCES && errno != EAGAIN)
            return CANNOT_LOCK;
    }
    return NONE_FREE;
}

/* A process that cannot be seen counts as another user's. */
static bool all_are_another_users(int locks, int cpus)
{
    for (int place = 1; place <= cpus; place++) {
        struct flock lock = lock_at(place);
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

/* A descriptor that becomes readable when somebody closes the file; -1 if the system has no such thing. */
static int watch_for_ends(void)
{
#ifdef __linux__
    int watch = private_fd(inotify_init1(IN_NONBLOCK));
    if (watch >= 0 && inotify_add_watch(watch, file_name(), IN_CLOSE_WRITE) < 0) {
        close(watch);
        watch = -1;
    }
    return watch;
#else
    return -1;
#endif
}

static void wait_at_the_head(int locks, int cpus)
{
    struct pollfd watched = {.fd = watch_for_ends(), .events = POLLIN};
    int64_t deadline_ms = now_ms() + PATIENCE_MS;
    while (take_any(locks, cpus) == NONE_FREE) {
        if (now_ms() >= deadline_ms) {
            if (all_are_another_users(locks, cpus))
                break;
            deadline_ms = now_ms() + PATIENCE_MS;
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
    int cpus = builder_cpus(), directory = away_directory();
    int locks = open_locks(directory);
    if (locks >= 0 && take_any(locks, cpus) == NONE_FREE) {
        if (verbose)
            say("all %d CPUs of this machine are compiling: waiting for one", cpus);
        struct flock head = lock_at(0);
        int queue = directory < 0 ? -1 : private_fd(open_file(directory, "queue", 0600));
        while (queue >= 0 && fcntl(queue, F_SETLKW, &head) != 0 && errno == EINTR)
            ;
        wait_at_the_head(locks, cpus);
        if (queue >= 0)
            close(queue); /* the next one's turn to look */
    }
    if (directory >= 0)
        close(directory);
}
