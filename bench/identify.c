/* How long gethost takes to say which compiler a word names, once it knows: in microseconds.
 *
 *     identify WORD TURNS
 *
 * The least of the turns' means counts: the others were disturbed.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "compiler_id.h"

enum { CALLS = 200 };

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

int main(int argc, char **argv)
{
    static struct compiler compiler;
    double least_us = 1e9;
    int turns = argc == 3 ? atoi(argv[2]) : 0;
    for (int turn = 0; turn < turns; turn++) {
        double start_us = now_us();
        for (int call = 0; call < CALLS; call++)
            if (!compiler_identify(argv[1], &compiler)) {
                fprintf(stderr, "%s\n", compiler.reason);
                return 1;
            }
        double mean_us = (now_us() - start_us) / CALLS;
        least_us = mean_us < least_us ? mean_us : least_us;
    }
    printf("%.2f\n", least_us);
    return turns > 0 ? 0 : 2;
}
