/* gethost as a process between its parent and its child: signals, exec, and how it ends. */
#ifndef GETHOST_CHILD_H
#define GETHOST_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

/* ---- in a child, or instead of having one ---- */

/* Call in a new child: the system ends it when its parent ends. On systems that cannot do that,
 * it checks only that the parent has not ended already. */
void die_with_parent(pid_t parent);

/* Become the command. If that fails, print one line and exit as a shell would: 127 not found, 126
 * not executable. */
_Noreturn void become_command(char **argv, char **environment);

/* ---- signals, while a child runs ---- */

/* SIGCHLD, SIGPIPE, or a signal that ends gethost: SIGINT, SIGTERM, SIGHUP or SIGQUIT. */
struct caught_signal {
    unsigned char number;
    unsigned char from_process; /* sent by kill(), not by the terminal: the child did not get it */
};

/* Catch signals from now on. Returns false, with errno set, if there can be no pipe for them. */
bool catch_signals(void);

/* Readable when next_signal() has something to return. */
int signals_fd(void);

/* Get the next caught signal. Returns false if there is none; never waits. */
bool next_signal(struct caught_signal *);

/* Handle signals as gethost's parent had set it up. A child calls this before exec. */
void restore_signals(void);

/* Restore the signals, and forget what was caught. */
void stop_catching_signals(void);

/* End gethost by this signal, so that its parent sees that a signal ended it. */
_Noreturn void end_by_signal(int number);

#endif
