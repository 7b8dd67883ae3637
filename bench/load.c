/* A load generator: many clients at once, each of which connects, asks, reads the answer and closes,
 * again and again.
 *
 *     load ADDRESS PORT CLIENTS REQUESTS QUESTION ANSWER [LAST [PER_S]]
 *
 * QUESTION is sent as it is, with \n and \0 for those two bytes. The server's answer must begin with
 * ANSWER, and it ends with the last byte of QUESTION. Lines that begin with "wait " are skipped. LAST,
 * if given, is sent after the answer. With PER_S, requests come at that rate, and the time of a request
 * counts from when it was due: a server that stalls does not stop the clock. After REQUESTS, the
 * program prints one line of JSON: requests per second, requests that failed (no answer, or another
 * one), percentiles of the time from connect() to the whole answer, and the CPU use of this program.
 *
 * It is in C and makes few system calls, so that on two cores the server is what is measured. A closed
 * connection keeps its port for a minute, so thousands per second would use up the ports that the
 * kernel hands out, and no other program could connect. So each client has its own address, and takes
 * its ports from below those. Connecting does not block: if the server's queue is full, a blocked
 * client would stop all others.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    CLIENTS_MAX = 250,
    MESSAGE_MAX = 4096,
    STUCK_MS = 20000,
    FIRST_PORT = 22000, /* below the ports that Linux hands out, above those with names */
    PORTS = 10000,
};

struct client {
    int fd;
    unsigned port; /* the next one, modulo PORTS */
    bool asked;
    size_t received;
    double start_s;
    char answer[MESSAGE_MAX];
};

struct message {
    size_t length;
    char text[MESSAGE_MAX];
};

static struct sockaddr_in server;
static struct client clients[CLIENTS_MAX];
static struct message question, answer, last;
static const struct message wait_answer = {.length = 5, .text = "wait "};
static int events_fd;
static long to_start, failed, done;
static double *took_s;
static double per_s, began_s; /* per_s 0: as fast as possible */
static long started;
static struct client *resting[CLIENTS_MAX]; /* their next request is not due yet */
static int resting_count;

static void fail(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double cpu_s(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static struct message read_message(const char *text)
{
    struct message message = {0};
    for (; *text; text++) {
        char c = *text;
        if (c == '\\' && (text[1] == 'n' || text[1] == '0'))
            c = *++text == 'n' ? '\n' : '\0';
        if (message.length == MESSAGE_MAX) {
            errno = EMSGSIZE;
            fail("message");
        }
        message.text[message.length++] = c;
    }
    return message;
}

/* Connect from the client's next free port. */
static void reach(struct client *client)
{
    for (int tries = 0; tries < PORTS; tries++) {
        int yes = 1;
        struct sockaddr_in own = {.sin_family = AF_INET};
        own.sin_addr.s_addr = htonl(0x7f010001u + (unsigned)(client - clients)); /* 127.1.0.1 ... */
        own.sin_port = htons((uint16_t)(FIRST_PORT + client->port++ % PORTS));
        client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (client->fd < 0)
            fail("socket");
        setsockopt(client->fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        if (bind(client->fd, (struct sockaddr *)&own, sizeof own) == 0 &&
            (connect(client->fd, (struct sockaddr *)&server, sizeof server) == 0 ||
             errno == EINPROGRESS))
            return;
        if (errno != EADDRINUSE && errno != EADDRNOTAVAIL)
            break;
        close(client->fd);
    }
    fail("connect");
}

static double due_s(void)
{
    return began_s + (double)started / per_s;
}

static void start(struct client *client)
{
    client->fd = -1;
    if (to_start == 0)
        return;
    client->start_s = now_s();
    if (per_s > 0) {
        if (due_s() > client->start_s) {
            resting[resting_count++] = client;
            return;
        }
        client->start_s = due_s();
    }
    to_start--;
    started++;
    client->asked = false;
    client->received = 0;
    reach(client);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = client};
    if (epoll_ctl(events_fd, EPOLL_CTL_ADD, client->fd, &event) != 0)
        fail("epoll_ctl");
}

static void end(struct client *client, bool answered)
{
    took_s[done++] = now_s() - client->start_s;
    if (!answered)
        failed++;
    else if (last.length)
        (void)!send(client->fd, last.text, last.length, MSG_NOSIGNAL);
    close(client->fd);
    start(client);
}

/* The length of the first whole line that was received, or 0. */
static size_t line_length(const struct client *client)
{
    const char *last_byte =
        memchr(client->answer, question.text[question.length - 1], client->received);
    return last_byte ? (size_t)(last_byte - client->answer) + 1 : 0;
}

static bool begins(const struct client *client, const struct message *with)
{
    return client->received >= with->length && !memcmp(client->answer, with->text, with->length);
}

static void advance(struct client *client)
{
    if (!client->asked) {
        if (send(client->fd, question.text, question.length, MSG_NOSIGNAL) < 0) {
            if (errno != EAGAIN)
                end(client, false);
            return;
        }
        client->asked = true;
    }
    ssize_t length = recv(client->fd, client->answer + client->received,
                          sizeof client->answer - client->received, 0);
    if (length < 0 && errno == EAGAIN)
        return;
    if (length <= 0) {
        end(client, false);
        return;
    }
    client->received += (size_t)length;
    size_t line;
    while ((line = line_length(client)) && begins(client, &wait_answer)) {
        client->received -= line;
        memmove(client->answer, client->answer + line, client->received);
    }
    if (line)
        end(client, begins(client, &answer));
}

/* Return the time until the next request is due, or until the server counts as stuck. */
static int wait_ms(void)
{
    if (!resting_count || !to_start)
        return STUCK_MS;
    double left_s = due_s() - now_s();
    return left_s > 0 ? (int)(left_s * 1e3) + 1 : 0;
}

static void start_what_is_due(void)
{
    while (resting_count && to_start && due_s() <= now_s())
        start(resting[--resting_count]);
}

static int by_size(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

int main(int argc, char **argv)
{
    if (argc < 7 || argc > 9) {
        fprintf(stderr, "usage: load ADDRESS PORT CLIENTS REQUESTS QUESTION ANSWER [LAST [PER_S]]\n");
        return 2;
    }
    long count = atol(argv[3]), requests = atol(argv[4]);
    question = read_message(argv[5]);
    answer = read_message(argv[6]);
    if (argc > 7)
        last = read_message(argv[7]);
    if (argc > 8)
        per_s = atof(argv[8]);
    server.sin_family = AF_INET;
    server.sin_port = htons((uint16_t)atoi(argv[2]));
    if (inet_pton(AF_INET, argv[1], &server.sin_addr) != 1 || count < 1 || count > CLIENTS_MAX ||
        requests < 1 || !question.length) {
        fprintf(stderr, "load: an argument is wrong\n");
        return 2;
    }
    took_s = calloc((size_t)requests, sizeof *took_s);
    events_fd = epoll_create1(0);
    if (!took_s || events_fd < 0)
        fail("epoll_create1");

    to_start = requests;
    double start_s = began_s = now_s(), start_cpu_s = cpu_s();
    for (long i = 0; i < count; i++) {
        clients[i].port = (unsigned)getpid() * 97; /* not where the last run began */
        start(&clients[i]);
    }
    while (done < requests) {
        struct epoll_event events[CLIENTS_MAX];
        int timeout_ms = wait_ms();
        int ready = epoll_wait(events_fd, events, CLIENTS_MAX, timeout_ms);
        if (ready == 0 && timeout_ms == STUCK_MS) {
            errno = ETIMEDOUT;
            fail("no answer");
        }
        for (int i = 0; i < ready; i++)
            advance(events[i].data.ptr);
        start_what_is_due();
    }
    double wall_s = now_s() - start_s;
    qsort(took_s, (size_t)requests, sizeof *took_s, by_size);
    printf("{\"per_s\": %.1f, \"failed\": %ld, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, "
           "\"cpu_share\": %.3f}\n",
           (double)requests / wall_s, failed, took_s[requests / 2] * 1e3,
           took_s[requests * 99 / 100] * 1e3, took_s[requests - 1] * 1e3,
           (cpu_s() - start_cpu_s) / wall_s);
    return 0;
}
