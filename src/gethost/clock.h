/* Time in milliseconds.
 *
 * A deadline is a time of now_ms(). Where a function allows it, -1 means "never".
 */
#ifndef GETHOST_CLOCK_H
#define GETHOST_CLOCK_H

#include <stdint.h>

/* The time on a monotonic clock: setting the system's time does not change it. */
int64_t now_ms(void);

/* The earlier of two deadlines; -1 is never. */
int64_t earlier_ms(int64_t one_ms, int64_t other_ms);

/* The time until the deadline, as poll() takes it: 0 if it has passed, -1 if it is never. */
int left_ms(int64_t deadline_ms);

void sleep_until(int64_t deadline_ms);

/* A random time from 0 to `limit_ms` - 1. It spreads out what many gethosts have to do at once. */
int random_ms(int limit_ms);

#endif
