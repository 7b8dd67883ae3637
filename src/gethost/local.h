#ifndef GETHOST_LOCAL_H
#define GETHOST_LOCAL_H

/* Wait until fewer compiles run on this machine than it has CPUs. From then on this process
 * counts as one of them until it ends, whatever program it becomes by execve(). */
void local_take_turn(void);

#endif
