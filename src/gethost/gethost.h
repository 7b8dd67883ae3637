/* What gethost's files share: their few types, and one line about each function.
 *
 *   main.c         the story: options, ask, run, ask again, compile here
 *   server.c       the conversation with host-server
 *   command.c      what distcc would do with the command
 *   environment.c  what distcc is told
 *   run.c          the command while its lease lasts; signals, exit status
 *   attempt.c      one run of the command: a child
 *   backup.c       the files of a second run of the same compile
 *   away.c         remembering, from one compile to the next, that the server is away
 *   local.c        compiling here, no more at once than there are CPUs
 *
 * Every file includes this one first, because of the line below it.
 */
#ifndef GETHOST_H
#define GETHOST_H

#define _GNU_SOURCE /* C11 hides POSIX, and CPU affinity, without it */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#define ARRAY_LENGTH(a) (sizeof(a) / sizeof *(a))

enum { REASON_SIZE = 200, HOST_SIZE = 256 };

/* ---- main.c ---- */

extern bool verbose;

/* One line to the user, with gethost's name before it. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Write all of it, to a descriptor that may be a pipe, non-blocking, or closed at the other end. */
void write_all(int fd, const char *data, size_t length);
/* The descriptor for messages that are about the farm, not about the source being compiled. */
int message_fd(void);
/* The same descriptor, closed in children and out of the way of 0, 1 and 2; takes -1 too. */
int private_fd(int fd);
/* A pipe of two such, neither of which waits; false, with errno, if there can be none. */
bool private_pipe(int ends[2]);
/* Milliseconds on a clock that nobody sets. */
int64_t now_ms(void);
/* The CPUs that this process may use. */
int builder_cpus(void);

/* ---- server.c ---- */

struct request {
    const char *servers; /* host[:port], with commas between */
    const char *type;   /* NULL: any */
    const char *wait_s; /* as given, a number; NULL: no limit */
    const char *source, *compiler;
    bool backup;        /* a second lease for the same compile would be of use */
    char avoid[1024];   /* hosts, with commas between; empty: none */
};

struct lease {
    char id[64], host[HOST_SIZE], address[64];
    int port, slots;
};

enum answer {
    ANSWER_LEASE,
    ANSWER_COUNT,
    ANSWER_REFUSED, /* the server is there, and there will be no slot */
    ANSWER_AWAY,    /* no server, or one that makes no sense */
};

enum lease_event {
    LEASE_GOES_ON,
    LEASE_REVOKED,        /* and so is a backup */
    LEASE_BACKUP_OFFERED, /* it is `backup` of struct server: start it, or server_backup_dropped() */
    LEASE_BACKUP_ENDED,   /* the server took it back, or is gone */
};

struct address {
    socklen_t length;
    struct sockaddr_storage any;
};

/* How a lease stands that was given, while the command runs. */
enum holding {
    HOLDING_NOT,        /* no lease, or one that no server takes: it makes no odds */
    HOLDING,            /* connected */
    HOLDING_LOST,       /* to be attached to a server again, at `due_ms` */
    HOLDING_CONNECTS,   /* to one, until `due_ms` */
    HOLDING_ASKS,       /* whether it takes the lease, until `due_ms` */
};

struct server {
    int fd;            /* -1: not connected */
    size_t start, end; /* bytes received and not yet used */
    char buffer[8192]; /* the longest line of the protocol */

    enum holding holding;
    const struct request *request;
    struct lease lease, backup;
    bool has_backup;        /* it was offered, and has not ended on either side */
    struct address address; /* of the server that gave the lease, */
    int entry;              /* which is this one of the list */
    int asked;              /* the one that was asked last */
    int tries;
    int64_t given_ms, due_ms;
};

enum answer server_request(struct server *, const struct request *, char reason[REASON_SIZE],
                           bool *news);
enum answer server_jobs(struct server *, const char *servers, int *count, char reason[REASON_SIZE]);
/* The lease while the command runs: what to poll() for, and when to call server_event() although nothing
 * came (a time of now_ms(); -1: never). server_event() does not wait; it is to be called until the lease
 * goes on, because more than one event may have come. */
int server_fd(const struct server *, short *events);
int64_t server_due_ms(const struct server *);
enum lease_event server_event(struct server *, char reason[REASON_SIZE]);
/* `id` is that of the lease under which the command was done; empty: the first one. */
void server_done(struct server *, const char *id, int exit_status, double wall_s, double cpu_s);
void server_failed(struct server *, int exit_status, const char *reason);
/* The backup ended, which says nothing about its host; or its host did not do its work. The lease goes on.
 * Nothing is said of a backup that the server does not have any more. */
void server_backup_dropped(struct server *);
void server_backup_failed(struct server *, int exit_status, const char *reason);
void server_close(struct server *);

/* ---- command.c ---- */

enum command_kind {
    COMMAND_COMPILE, /* distcc, and it would send this compile to a host */
    COMMAND_LOCAL,   /* distcc, and it would run this here anyway */
    COMMAND_OTHER,   /* not distcc: what it does is not known */
};

/* Where a command names a file: in that word of its argv, from that byte on. Word 0: nowhere. */
struct file_name {
    size_t word, from;
};

struct command {
    enum command_kind kind;
    const char *source, *compiler; /* of COMMAND_COMPILE; else NULL */
    const char *reason;            /* of COMMAND_LOCAL */
    bool compiles;                 /* COMMAND_LOCAL: it is a compile all the same */
    /* COMMAND_COMPILE: it writes these files and no others, so it can run twice at the same time, the second
     * time with other names for them. */
    bool repeatable;
    struct file_name object, dependencies;
};

struct command command_read(char **argv);

/* Did the command itself end with that status, or did distcc give up, and on what? */
enum verdict { VERDICT_FINAL, VERDICT_HOST_FAILED, VERDICT_DISTCC_FAILED };

enum verdict command_judge(const struct command *, int exit_status);
/* 0, or the exit status of a shell that cannot run the program: 127 not found, 126 not executable. */
int command_missing(const char *program);

/* ---- environment.c ---- */

/* Already under a gethost, or under distcc? Then the command is run as it is. */
bool environment_is_nested(void);
/* Good until the next call: a child has its own by then. */
char **environment_for_lease(const struct lease *);
char **environment_for_local(void);
/* False where the environment has the compiler write more files than the command names. */
bool environment_lets_repeat(void);
/* Does the user want to read what distcc has to say? */
bool environment_wants_distcc_log(void);
/* Make distcc forget that the host failed a moment ago. */
void environment_forget_backoff(const struct lease *);
/* Has a distcc of this user failed with the host since? */
bool environment_has_backoff(const struct lease *);
/* False where distcc has no place for its lock files: it would fail with every host. */
bool environment_distcc_can_work(void);

/* ---- run.c ---- */

struct outcome {
    bool revoked;
    char reason[REASON_SIZE]; /* of the revocation */
    int exit_status;          /* when it was not revoked and no signal ended it */
    int signal;               /* that ended the child, or 0 */
    double wall_s, cpu_s;
    bool went_by_mark;        /* distcc may have given up because another distcc had */
    char backup_id[64];       /* of the backup whose outcome it is; empty: the first attempt's */
    bool backup_is_no_use;    /* its files could not be put in place */
    char *text;               /* what the child wrote to stderr, if that was to be kept back */
    size_t text_length;
};

/* Run the command while the lease lasts, and as a backup when the server offers one. Does not return when
 * a signal ends gethost. */
struct outcome run_with_lease(char **argv, const struct command *, struct server *, bool keep_text);
/* Become the command. */
_Noreturn void run_instead(char **argv, char **environment);
_Noreturn void run_end_by_signal(int signal_number);
/* As they were given to gethost: what a child is to have. */
void run_restore_signals(void);

/* ---- attempt.c ---- */

struct attempt {
    pid_t process;     /* 0: there is none */
    bool is_backup;    /* to be set before it is started */
    bool leaves_files; /* to be removed or replaced: it is over when nobody can write them any more */
    struct lease lease;
    int64_t start_ms;
    int64_t due_ms; /* when its time to end is over; -1: it has not been asked to */
    bool ended;     /* and then: */
    int status;
    double wall_s, cpu_s;
    int text_fd; /* from where its stderr comes, if that is kept back; -1: not, or it is closed */
    char *text;
    size_t text_length;
    bool spilled; /* it was more than is kept back, and has been shown; or is lost, if it is a backup's */
};

#define NO_ATTEMPT ((struct attempt){.due_ms = -1, .text_fd = -1})

/* False, with errno, if it cannot be started. */
bool attempt_start(struct attempt *, char **argv, const struct lease *, bool keep_text);
/* See whether it has ended; and kill it if it has had its time to. */
void attempt_look_at(struct attempt *);
bool attempt_is_running(const struct attempt *);
bool attempt_is_over(const struct attempt *);
bool attempt_ended_well(const struct attempt *);
bool attempt_went_by_mark(const struct attempt *);
void attempt_signal(const struct attempt *, int number);
void attempt_stop(struct attempt *);
/* It has been asked to end by somebody else. */
void attempt_give_time_to_end(struct attempt *);
/* Read what it has written so far. */
void attempt_take_text(struct attempt *);
void attempt_end_text(struct attempt *);
/* Call in a fresh child: it ends when its parent does, where the system can do that. */
void attempt_die_with(int parent_pid);

/* ---- backup.c ---- */

struct backup_files {
    size_t count;
    struct {
        const char *final;
        char *temporary;
    } file[2]; /* in the order in which they are put in place */
};

/* The command as a backup is to run it, with temporary names for its files; NULL if there is no memory. */
char **backup_command(char **argv, const struct command *, struct backup_files *);
/* Put the files in their place; false, with errno, if not all of them could be. */
bool backup_keep(const struct backup_files *);
void backup_remove(const struct backup_files *);

/* ---- away.c ---- */

bool away_now(const char *server);
/* True if that is news. */
bool away_mark(const char *server);
void away_clear(const char *server);
/* True once a minute, so that 400 refused compiles make one message. */
bool away_is_first_refusal(const char *servers);
/* The directory of these notes, which is this user's alone; -1 if there is no place for one. */
int away_directory(void);

/* ---- local.c ---- */

/* Wait until fewer compiles run here than there are CPUs, and count as one of them, for as long as this
 * process lives; whatever it becomes by execve(). */
void local_take_turn(void);

#endif
