#ifndef GETHOST_CPUS_H
#define GETHOST_CPUS_H

/* The number of CPUs of this machine that this process may use: 1 or more. */
int builder_cpus(void);

#endif
