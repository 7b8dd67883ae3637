/* The CPUs of the builder, the machine on which gethost runs. Limits set by taskset or by a
 * container's cpuset count. */
#define _GNU_SOURCE
#include "cpus.h"

#include <sched.h>
#include <unistd.h>

int builder_cpus(void)
{
    static int cpus; /* 0: not asked yet */
    if (cpus)
        return cpus;
#ifdef __linux__
    cpu_set_t usable;
    if (sched_getaffinity(0, sizeof usable, &usable) == 0)
        cpus = CPU_COUNT(&usable);
#endif
    if (cpus < 1)
        cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (cpus < 1)
        cpus = 1;
    return cpus;
}
