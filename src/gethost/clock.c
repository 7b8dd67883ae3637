/* The monotonic clock, deadlines, and random pauses. See clock.h. */
#define _GNU_SOURCE
#include "clock.h"

#include <poll.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t earlier_ms(int64_t one_ms, int64_t other_ms)
{
    return one_ms < 0 || (other_ms >= 0 && other_ms < one_ms) ? other_ms : one_ms;
}

int left_ms(int64_t deadline_ms)
{
    if (deadline_ms < 0)
        return -1;
    int64_t left = deadline_ms - now_ms();
    return left > 0 ? (int)left : 0;
}

void sleep_until(int64_t deadline_ms)
{
    while (now_ms() < deadline_ms)
        (void)poll(NULL, 0, left_ms(deadline_ms));
}

/* Seeded by the time and the process id, which differ among gethosts that one event woke up. */
int random_ms(int limit_ms)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint32_t mixed = (uint32_t)now.tv_nsec ^ (uint32_t)getpid() * 2654435761u;
    mixed = (mixed ^ mixed >> 15) * 0x2c1b3c6du;
    return (int)((mixed ^ mixed >> 12) % (uint32_t)limit_ms);
}
