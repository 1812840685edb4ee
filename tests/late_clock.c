/* Shift the clock of a process: LD_PRELOAD=late_clock.so CLOCK_SHIFT_NS=-50000000.
 *
 * Only the time of day is shifted. libfaketime also touches waits, which Python's threads do not survive.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) {
        const char *shift = getenv("CLOCK_SHIFT_NS");
        long long ns = now->tv_sec * 1000000000LL + now->tv_nsec + (shift ? atoll(shift) : 0);
        now->tv_sec = ns / 1000000000LL;
        now->tv_nsec = ns % 1000000000LL;
    }
    return failed;
}
