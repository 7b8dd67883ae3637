/* The conversation with host-server, as docs/protocol.md says it: one connection is one lease.
 *
 * Everything that comes from the network is somebody else's text. It ends up in an environment variable
 * that distcc obeys and on a terminal, so it is checked here and nowhere else: an address is a numeric
 * address, a port and a number of slots are in range, and a reason has no control characters. What does
 * not pass counts as no server: the compile runs here.
 *
 * Time is bounded everywhere. A server on the same network accepts within some milliseconds, and one that
 * waits has said so within some more; CONNECT_MS and FIRST_ANSWER_MS are generous towards a loaded one, and
 * are all that a user ever loses in ten seconds to one that is gone. FIRST_ANSWER_MS is for all servers of
 * the list together, each gets an equal share of what is left. After that the server gives a sign of life
 * every five seconds, and SILENCE_MS is three of them.
 *
 * A server may be killed, and started again, while hundreds of us hold a lease or wait for one. Who waits
 * asks again for a while. Who holds one tells whichever server comes (`attach`): without that it would give
 * our slot to another. Both at random moments, so that the new server can bear it.
 *
 * Not to be known here: what the command is and where it runs.
 */
#include "gethost.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS has SO_NOSIGPIPE instead */
#endif

enum {
    CONNECT_MS = 250,
    FIRST_ANSWER_MS = 1000,
    SILENCE_MS = 15000,
    WAIT_GRACE_MS = 1000, /* for the server to say itself that --wait is over */
    ASK_AGAIN_MS = 5000,  /* where a server that had us wait went away: to be started again, perhaps */

    /* A lease that lost its server: the longest pauses before the first try, the second, and each other. */
    ATTACH_FIRST_MS = 200,
    ATTACH_SECOND_MS = 500,
    ATTACH_AGAIN_MS = 1000,
    ATTACH_SAME = 3, /* so many times at the server that gave it, before others are tried */
    ATTACH_ANSWER_MS = 1000, /* for connecting, and for the answer */
    ATTACH_RESOLVE_MS = 100, /* nobody waits for this but the end of the compile */

    DEFAULT_PORT = 9714,
    WORDS_MAX = 64,
    ADDRESSES_MAX = 8,
    SLOTS_MAX = 4096,
    COUNT_MAX = 1000000,
};

/* A random time below a limit: what many of us were made to do at once we do not do at once. */
static int spread_ms(int limit_ms)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint32_t mixed = (uint32_t)now.tv_nsec ^ (uint32_t)getpid() * 2654435761u;
    mixed = (mixed ^ mixed >> 15) * 0x2c1b3c6du;
    return (int)((mixed ^ mixed >> 12) % (uint32_t)limit_ms);
}

/* ---- lines out ---- */

struct line {
    size_t length;
    char text[8192];
};

static void line_start(struct line *line, const char *verb)
{
    line->length = (size_t)snprintf(line->text, sizeof line->text, "%s", verb);
}

/* Add " key=value", percent-encoded. What does not fit is left out: every key may be. */
static void line_add(struct line *line, const char *key, const char *value)
{
    size_t length = line->length, room = sizeof line->text - 1; /* the newline needs one */
    int written = snprintf(line->text + length, room - length, " %s=", key);
    if (written < 0 || (size_t)written >= room - length)
        return;
    length += (size_t)written;
    for (; *value; value++) {
        unsigned char c = (unsigned char)*value;
        bool plain = c > ' ' && c < 0x7f && c != '%';
        if (length + (plain ? 1 : 3) >= room)
            return;
        if (plain) {
            line->text[length++] = (char)c;
        } else {
            static const char hexadecimal[] = "0123456789ABCDEF";
            line->text[length++] = '%';
            line->text[length++] = hexadecimal[c >> 4];
            line->text[length++] = hexadecimal[c & 15];
        }
    }
    line->length = length;
}

__attribute__((format(printf, 3, 4))) static void line_format(struct line *line, const char *key,
                                                              const char *format, ...)
{
    char value[64];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(value, sizeof value, format, arguments);
    va_end(arguments);
    line_add(line, key, value);
}

/* A fresh connection takes a line whole; a server that does not even read is a lost one. */
static bool line_send(struct server *server, struct line *line)
{
    line->text[line->length++] = '\n';
    return send(server->fd, line->text, line->length, MSG_NOSIGNAL) == (ssize_t)line->length;
}

/* Who asks. Not from the user database: looking up a name there can mean asking another server. */
static void line_add_builder(struct line *line)
{
    const char *user = getenv("USER");
    if (!user || !*user)
        user = getenv("LOGNAME");
    if (user && *user)
        line_add(line, "user", user);
    else
        line_format(line, "user", "uid%lu", (unsigned long)geteuid());
    char name[HOST_SIZE] = "";
    if (gethostname(name, sizeof name - 1) == 0 && *name)
        line_add(line, "builder", name);
    line_format(line, "cpus", "%d", builder_cpus());
}

/* What is to be compiled, and where it may not be. */
static void line_add_request(struct line *line, const struct request *request)
{
    line_add_builder(line);
    if (request->type)
        line_add(line, "type", request->type);
    if (*request->avoid)
        line_add(line, "avoid", request->avoid);
    if (request->compiler)
        line_add(line, "compiler", request->compiler);
    if (request->source)
        line_add(line, "source", request->source);
    if (request->backup)
        line_add(line, "backup", "yes");
    char directory[4096];
    if (getcwd(directory, sizeof directory))
        line_add(line, "dir", directory);
}

/* ---- lines in ---- */

struct message {
    const char *verb;
    size_t count;
    struct {
        const char *key;
        char *value;
    } word[WORDS_MAX];
};

static int hexadecimal_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool decode(char *value)
{
    char *to = value;
    for (char *from = value; *from; from++) {
        if (*from != '%') {
            *to++ = *from;
            continue;
        }
        int high = hexadecimal_digit(from[1]), low = high < 0 ? -1 : hexadecimal_digit(from[2]);
        if (low < 0 || high + low == 0) /* a NUL would hide what follows it */
            return false;
        *to++ = (char)(high * 16 + low);
        from += 2;
    }
    *to = 0;
    return true;
}

static bool is_name(const char *text)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
    return *text && strchr(letters, *text) &&
           strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_-") == strlen(text);
}

static const char *value_of(const struct message *message, const char *key)
{
    for (size_t i = 0; i < message->count; i++)
        if (strcmp(message->word[i].key, key) == 0)
            return message->word[i].value;
    return NULL;
}

/* Take a line apart, in place. */
static bool message_read(char *line, struct message *message)
{
    *message = (struct message){.verb = line};
    for (char *space = strchr(line, ' '); space;) {
        *space = 0;
        char *key = space + 1, *equals = strchr(key, '=');
        space = strchr(key, ' ');
        if (!equals || (space && equals > space) || message->count == WORDS_MAX)
            return false;
        if (space)
            *space = 0;
        *equals = 0;
        if (!is_name(key) || value_of(message, key) || !decode(equals + 1))
            return false;
        message->word[message->count].key = key;
        message->word[message->count++].value = equals + 1;
        if (space)
            *space = ' ';
    }
    return is_name(message->verb);
}

/* A whole number from the network, within bounds; -1 if it is anything else. */
static int number_of(const struct message *message, const char *key, int low, int high)
{
    const char *text = value_of(message, key);
    if (!text || !*text || strspn(text, "0123456789") != strlen(text) || strlen(text) > 9)
        return -1;
    int number = atoi(text);
    return number >= low && number <= high ? number : -1;
}

/* Text from the network, made fit for a terminal. */
static void copy_printable(char *to, size_t size, const char *from)
{
    size_t length = 0;
    for (; from && *from && length + 1 < size; from++)
        to[length++] = *from < ' ' || *from > '~' ? '?' : *from;
    to[length] = 0;
}

static void copy_reason(char reason[REASON_SIZE], const struct message *message)
{
    copy_printable(reason, REASON_SIZE, value_of(message, "reason"));
    if (!*reason)
        snprintf(reason, REASON_SIZE, "no reason given");
}

static bool is_address(const char *text)
{
    struct in6_addr six; /* has room for the other as well */
    return strlen(text) < sizeof((struct lease *)0)->address &&
           (inet_pton(AF_INET, text, &six) == 1 || inet_pton(AF_INET6, text, &six) == 1);
}

/* It goes back to the server in a list, so no comma. */
static bool is_host(const char *text)
{
    size_t length = strlen(text);
    return length > 0 && length < HOST_SIZE &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]%") == length;
}

static bool read_lease(const struct message *message, struct lease *lease)
{
    const char *address = value_of(message, "address"), *host = value_of(message, "host");
    copy_printable(lease->id, sizeof lease->id, value_of(message, "id"));
    if (!address || !is_address(address) || !host || !is_host(host))
        return false;
    snprintf(lease->address, sizeof lease->address, "%s", address);
    snprintf(lease->host, sizeof lease->host, "%s", host);
    lease->port = number_of(message, "port", 1, 65535);
    lease->slots = number_of(message, "slots", 1, SLOTS_MAX);
    return lease->port > 0 && lease->slots > 0;
}

enum got { GOT_LINE, GOT_NOTHING_YET, GOT_TIMEOUT, GOT_CLOSE, GOT_TOO_LONG };

/* The next line, without its end, valid until the next call. Does not wait. */
static enum got next_line(struct server *server, char **line)
{
    for (;;) {
        char *from = server->buffer + server->start;
        size_t length = server->end - server->start;
        char *newline = memchr(from, '\n', length);
        if (newline) {
            server->start += (size_t)(newline - from) + 1;
            if (newline > from && newline[-1] == '\r')
                newline--;
            *newline = 0;
            *line = from;
            return GOT_LINE;
        }
        memmove(server->buffer, from, length);
        server->start = 0;
        server->end = length;
        if (length == sizeof server->buffer)
            return GOT_TOO_LONG;
        ssize_t got = recv(server->fd, server->buffer + length, sizeof server->buffer - length, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return GOT_NOTHING_YET;
        if (got <= 0)
            return GOT_CLOSE;
        if (memchr(server->buffer + length, 0, (size_t)got))
            return GOT_TOO_LONG; /* a NUL is in no line, so this one never ends */
        server->end += (size_t)got;
    }
}

/* poll() that a signal does not cut short. */
static bool ready(int fd, short events, int64_t deadline_ms)
{
    struct pollfd watched = {.fd = fd, .events = events};
    for (;;) {
        int64_t left_ms = deadline_ms - now_ms();
        int result = poll(&watched, 1, left_ms > 0 ? (int)left_ms : 0);
        if (result > 0)
            return true;
        if (result == 0 || errno != EINTR)
            return false;
    }
}

static enum got wait_for_line(struct server *server, int64_t deadline_ms, char **line)
{
    for (;;) {
        enum got got = next_line(server, line);
        if (got != GOT_NOTHING_YET)
            return got;
        if (!ready(server->fd, POLLIN, deadline_ms))
            return GOT_TIMEOUT;
    }
}

/* ---- connecting ---- */

static bool numeric(const char *host, int port, struct address *address)
{
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    memset(address, 0, sizeof *address);
    if (inet_pton(AF_INET, host, &four.sin_addr) == 1) {
        memcpy(&address->any, &four, address->length = sizeof four);
        return true;
    }
    if (inet_pton(AF_INET6, host, &six.sin6_addr) == 1) {
        memcpy(&address->any, &six, address->length = sizeof six);
        return true;
    }
    return false;
}

/* In a child, because getaddrinfo() cannot be given a time limit, and a name server that is down takes it
 * half a minute. A thread would do the same and could not be ended. */
static size_t resolve(const char *host, int port, int64_t deadline_ms, struct address *addresses)
{
    int ends[2];
    if (pipe(ends) != 0)
        return 0;
    ends[0] = private_fd(ends[0]);
    ends[1] = private_fd(ends[1]);
    int parent_pid = (int)getpid();
    pid_t child = fork();
    if (child == 0) {
        attempt_die_with(parent_pid);
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
        char service[8];
        snprintf(service, sizeof service, "%d", port);
        int failed = getaddrinfo(host, service, &hints, &found);
        size_t count = 0;
        for (; !failed && found && count < ADDRESSES_MAX; found = found->ai_next) {
            memset(&addresses[count], 0, sizeof *addresses);
            memcpy(&addresses[count].any, found->ai_addr, found->ai_addrlen);
            addresses[count++].length = found->ai_addrlen;
        }
        write_all(ends[1], (const char *)addresses, count * sizeof *addresses); /* < PIPE_BUF: at once */
        _exit(0);
    }
    close(ends[1]);
    ssize_t length = 0;
    if (child > 0 && ready(ends[0], POLLIN, deadline_ms))
        length = read(ends[0], addresses, ADDRESSES_MAX * sizeof *addresses);
    close(ends[0]);
    if (child > 0) {
        kill(child, SIGKILL);
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    return length > 0 ? (size_t)length / sizeof *addresses : 0;
}

/* A name server need not be asked for what everybody knows. */
static size_t addresses_of(const char *host, int port, int64_t deadline_ms, struct address *addresses)
{
    if (strcmp(host, "localhost") == 0)
        return (size_t)numeric("127.0.0.1", port, &addresses[0]) + numeric("::1", port, &addresses[1]);
    if (numeric(host, port, &addresses[0]))
        return 1;
    return resolve(host, port, deadline_ms, addresses);
}

/* One entry of the list, host[:port], [address]:port, or an IPv6 address by itself. */
static bool read_entry(char *entry, const char **host, int *port)
{
    char *end = entry, *colon;
    *port = DEFAULT_PORT;
    if (*entry == '[') {
        *host = entry + 1;
        end = strchr(entry, ']');
        if (!end || (end[1] && end[1] != ':'))
            return false;
        *end++ = 0;
        colon = *end ? end : NULL;
    } else {
        *host = entry;
        colon = strchr(entry, ':');
        if (colon && strchr(colon + 1, ':'))
            colon = NULL;
    }
    if (colon) {
        *colon++ = 0;
        if (!*colon || strspn(colon, "0123456789") != strlen(colon) || strlen(colon) > 5)
            return false;
        *port = atoi(colon);
    }
    return **host && *port > 0 && *port <= 65535;
}

/* Have the kernel notice within 15 s that a server's machine, or its cable, is gone. In between, an idle
 * connection costs a packet every 8 s; src/compilefarm/dead_peer.py has the same. */
static void notice_dead_peer(int fd)
{
    static const struct {
        int level, option, value;
    } settings[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},
#ifdef TCP_KEEPIDLE
        {IPPROTO_TCP, TCP_KEEPIDLE, 8},
#elif defined TCP_KEEPALIVE
        {IPPROTO_TCP, TCP_KEEPALIVE, 8}, /* macOS's name for it */
#endif
#ifdef TCP_KEEPINTVL
        {IPPROTO_TCP, TCP_KEEPINTVL, 2},
#endif
#ifdef TCP_KEEPCNT
        {IPPROTO_TCP, TCP_KEEPCNT, 3},
#endif
#ifdef TCP_USER_TIMEOUT
        {IPPROTO_TCP, TCP_USER_TIMEOUT, 12000},
#endif
#ifdef SO_NOSIGPIPE
        {SOL_SOCKET, SO_NOSIGPIPE, 1},
#endif
    };
    for (size_t i = 0; i < ARRAY_LENGTH(settings); i++)
        (void)setsockopt(fd, settings[i].level, settings[i].option, &settings[i].value, sizeof(int));
}

/* 0, EINPROGRESS, or why it cannot be. */
static int begin_to_connect(struct server *server, const struct address *address)
{
    server->fd = private_fd(socket(address->any.ss_family, SOCK_STREAM, 0));
    server->start = server->end = 0;
    if (server->fd < 0)
        return errno;
    (void)fcntl(server->fd, F_SETFL, O_NONBLOCK);
    notice_dead_peer(server->fd);
    if (connect(server->fd, (const struct sockaddr *)&address->any, address->length) == 0)
        return 0;
    return errno == EINTR ? EINPROGRESS : errno;
}

/* What became of it, once the socket is writable: 0, or an error. */
static int connection_error(const struct server *server)
{
    int error = 0;
    socklen_t size = sizeof error;
    return getsockopt(server->fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

static bool connect_to(struct server *server, const struct address *address, int64_t deadline_ms)
{
    int error = begin_to_connect(server, address);
    if (error == EINPROGRESS)
        error = ready(server->fd, POLLOUT, deadline_ms) ? connection_error(server) : ETIMEDOUT;
    if (error) {
        server_close(server);
        errno = error;
    }
    return !error;
}

/* Connect to one entry of the list and send it the line. */
static bool reach(struct server *server, char *entry, struct line line, int64_t deadline_ms,
                  char reason[REASON_SIZE])
{
    struct address addresses[ADDRESSES_MAX];
    const char *host;
    int port;
    char shown[HOST_SIZE];
    copy_printable(shown, sizeof shown, entry);
    if (!read_entry(entry, &host, &port)) {
        snprintf(reason, REASON_SIZE, "'%.100s' is not HOST[:PORT]", shown);
        return false;
    }
    size_t count = addresses_of(host, port, deadline_ms, addresses);
    if (!count)
        snprintf(reason, REASON_SIZE, "the name %.100s cannot be resolved", shown);
    for (size_t i = 0; i < count; i++) {
        int64_t connect_deadline_ms = now_ms() + CONNECT_MS;
        if (connect_deadline_ms > deadline_ms)
            connect_deadline_ms = deadline_ms;
        if (connect_to(server, &addresses[i], connect_deadline_ms) && line_send(server, &line)) {
            server->address = addresses[i];
            return true;
        }
        snprintf(reason, REASON_SIZE, "%.100s: %s", shown, strerror(errno));
        server_close(server);
    }
    return false;
}

/* ---- asking ---- */

struct question {
    struct line line;
    int64_t wait_deadline_ms; /* INT64_MAX: none */
    struct lease *lease;      /* the answer goes here, */
    int *count;               /* or here */
    bool remember;            /* from one gethost to the next, which servers are away */
    bool insist;              /* ask them all the same */
    bool left_waiting;        /* a server had us wait, and is no more */
    bool news;                /* that a server is away */
};

static enum answer understand(const struct message *message, const struct question *question,
                              char reason[REASON_SIZE])
{
    if (!strcmp(message->verb, "refused") || !strcmp(message->verb, "error")) {
        copy_reason(reason, message);
        return ANSWER_REFUSED;
    }
    if (question->lease && !strcmp(message->verb, "lease") && read_lease(message, question->lease))
        return ANSWER_LEASE;
    if (question->count && !strcmp(message->verb, "jobs") &&
        (*question->count = number_of(message, "count", 1, COUNT_MAX)) > 0)
        return ANSWER_COUNT;
    snprintf(reason, REASON_SIZE, "the server's answer makes no sense");
    return ANSWER_AWAY;
}

static enum answer listen_for_answer(struct server *server, struct question *question,
                                     int64_t first_deadline_ms, char reason[REASON_SIZE])
{
    int64_t deadline_ms = first_deadline_ms;
    bool waits = false;
    for (;;) {
        char *line;
        struct message message;
        int64_t until_ms =
            deadline_ms < question->wait_deadline_ms ? deadline_ms : question->wait_deadline_ms;
        switch (wait_for_line(server, until_ms, &line)) {
        case GOT_LINE:
            break;
        case GOT_CLOSE:
            snprintf(reason, REASON_SIZE, "the server closed the connection");
            question->left_waiting = question->left_waiting || waits;
            return ANSWER_AWAY;
        case GOT_TIMEOUT:
            if (until_ms < deadline_ms) {
                snprintf(reason, REASON_SIZE, "no slot within the time of --wait");
                return ANSWER_REFUSED;
            }
            snprintf(reason, REASON_SIZE, "the server is silent");
            return ANSWER_AWAY;
        default:
            snprintf(reason, REASON_SIZE, "the server's answer is no line");
            return ANSWER_AWAY;
        }
        if (!message_read(line, &message)) {
            snprintf(reason, REASON_SIZE, "the server's answer makes no sense");
            return ANSWER_AWAY;
        }
        if (!question->lease || strcmp(message.verb, "wait") != 0)
            return understand(&message, question, reason);
        deadline_ms = now_ms() + SILENCE_MS;
        waits = true;
    }
}

/* Ask the servers in order, until one answers. Only ANSWER_LEASE leaves the connection open. */
static enum answer ask_each(struct server *server, const char *servers, struct question *question,
                            char reason[REASON_SIZE])
{
    enum answer answer = ANSWER_AWAY;
    int64_t budget_ms = FIRST_ANSWER_MS;
    char *list = strdup(servers), *rest = list, *entry;
    snprintf(reason, REASON_SIZE, "no server is named");
    for (int number = 0; answer == ANSWER_AWAY && rest && (entry = strsep(&rest, ",")); number++) {
        int left = 1;
        for (const char *c = rest; c && *c; c++)
            left += *c == ',';
        left += rest != NULL;
        if (!*entry)
            continue;
        if (question->remember && !question->insist && away_now(entry)) {
            snprintf(reason, REASON_SIZE, "host-server was away a moment ago");
            continue;
        }
        char name[HOST_SIZE];
        snprintf(name, sizeof name, "%s", entry);
        int64_t start_ms = now_ms(), share_ms = budget_ms / left;
        if (reach(server, entry, question->line, start_ms + share_ms, reason)) {
            answer = listen_for_answer(server, question, start_ms + share_ms, reason);
            if (answer != ANSWER_LEASE)
                server_close(server);
        }
        int64_t used_ms = now_ms() - start_ms;
        budget_ms -= used_ms < share_ms ? used_ms : share_ms;
        server->entry = number;
        if (question->remember && answer != ANSWER_AWAY)
            away_clear(name);
        else if (question->remember)
            question->news = away_mark(name) || question->news;
    }
    free(list);
    return answer;
}

/* The same, and again for a while where we waited already: the server may come back, or another take over. */
static enum answer ask(struct server *server, const char *servers, struct question *question,
                       char reason[REASON_SIZE])
{
    int64_t give_up_ms = -1;
    for (;;) {
        enum answer answer = ask_each(server, servers, question, reason);
        if (answer != ANSWER_AWAY)
            return answer;
        if (question->left_waiting) {
            give_up_ms = now_ms() + ASK_AGAIN_MS;
            if (!question->insist)
                line_add(&question->line, "returning", "yes");
            question->insist = true;
            question->left_waiting = false;
        }
        int64_t next_ms = now_ms() + ATTACH_FIRST_MS + spread_ms(ATTACH_SECOND_MS);
        if (next_ms >= give_up_ms || next_ms >= question->wait_deadline_ms)
            return answer;
        (void)ready(-1, 0, next_ms); /* nothing is: it waits */
    }
}

enum answer server_request(struct server *server, const struct request *request,
                           char reason[REASON_SIZE], bool *news)
{
    struct question question = {
        .wait_deadline_ms = INT64_MAX, .lease = &server->lease, .remember = true};
    line_start(&question.line, "request");
    line_add_request(&question.line, request);
    if (request->wait_s) {
        line_add(&question.line, "wait_s", request->wait_s);
        question.wait_deadline_ms = now_ms() + WAIT_GRACE_MS + (int64_t)(atof(request->wait_s) * 1e3);
    }
    enum answer answer = ask(server, request->servers, &question, reason);
    if (answer == ANSWER_LEASE) {
        server->holding = HOLDING;
        server->request = request;
        server->given_ms = now_ms();
    }
    *news = question.news;
    return answer;
}

enum answer server_jobs(struct server *server, const char *servers, int *count, char reason[REASON_SIZE])
{
    struct question question = {.wait_deadline_ms = INT64_MAX, .count = count};
    line_start(&question.line, "jobs");
    line_add_builder(&question.line);
    return ask(server, servers, &question, reason);
}

/* ---- while the lease lasts ---- */

int server_fd(const struct server *server, short *events)
{
    *events = server->holding == HOLDING_CONNECTS ? POLLOUT : POLLIN;
    return server->fd;
}

int64_t server_due_ms(const struct server *server)
{
    return server->holding == HOLDING_NOT || server->holding == HOLDING ? -1 : server->due_ms;
}

static void set_holding(struct server *server, enum holding holding, int within_ms)
{
    server->holding = holding;
    server->due_ms = now_ms() + within_ms;
}

/* The connection is gone; the host goes on compiling, and the lease is attached later. */
static void lose(struct server *server)
{
    server_close(server);
    static const int longest_ms[] = {ATTACH_FIRST_MS, ATTACH_SECOND_MS, ATTACH_AGAIN_MS};
    int longest = longest_ms[server->tries < 2 ? server->tries : 2];
    server->tries++;
    set_holding(server, HOLDING_LOST, longest / 4 + spread_ms(longest * 3 / 4));
}

static void give_up(struct server *server)
{
    server_close(server);
    server->holding = HOLDING_NOT;
}

/* The n-th entry of the list, counted round and round; false where it names nobody. */
static bool entry_of(const char *servers, int number, char *entry, size_t size)
{
    int count = 1;
    for (const char *c = servers; *c; c++)
        count += *c == ',';
    for (number %= count; number > 0; number--)
        servers = strchr(servers, ',') + 1;
    size_t length = strcspn(servers, ",");
    snprintf(entry, size, "%.*s", (int)length, servers);
    return length > 0 && length < size;
}

static bool address_to_ask(struct server *server, struct address *address)
{
    struct address addresses[ADDRESSES_MAX];
    char entry[HOST_SIZE];
    const char *host;
    int port, others = server->tries - ATTACH_SAME;
    server->asked = server->entry + (others > 0 ? others : 0);
    *address = server->address;
    if (others <= 0)
        return true;
    if (!entry_of(server->request->servers, server->asked, entry, sizeof entry) ||
        !read_entry(entry, &host, &port))
        return false;
    size_t count = addresses_of(host, port, now_ms() + ATTACH_RESOLVE_MS, addresses);
    if (count)
        *address = addresses[(size_t)server->tries % count];
    return count > 0;
}

static void connect_again(struct server *server)
{
    struct address address;
    int error = address_to_ask(server, &address) ? begin_to_connect(server, &address) : ENOENT;
    if (error && error != EINPROGRESS)
        lose(server);
    else
        set_holding(server, HOLDING_CONNECTS, ATTACH_ANSWER_MS);
}

static void ask_to_attach(struct server *server)
{
    struct line line;
    line_start(&line, "attach");
    line_add(&line, "id", server->lease.id);
    line_add(&line, "host", server->lease.host);
    line_format(&line, "port", "%d", server->lease.port);
    line_format(&line, "running_s", "%.3f", (double)(now_ms() - server->given_ms) / 1e3);
    line_add_request(&line, server->request);
    if (connection_error(server) || !line_send(server, &line))
        lose(server);
    else
        set_holding(server, HOLDING_ASKS, ATTACH_ANSWER_MS);
}

static void attached(struct server *server, const struct message *message)
{
    char entry[HOST_SIZE];
    if (entry_of(server->request->servers, server->asked, entry, sizeof entry))
        away_clear(entry); /* others may ask it again */
    copy_printable(server->lease.id, sizeof server->lease.id, value_of(message, "id"));
    if (verbose)
        say("host-server %s has the lease of %s now, as %s", entry, server->lease.host, server->lease.id);
    server->address.length = sizeof server->address.any;
    (void)getpeername(server->fd, (struct sockaddr *)&server->address.any, &server->address.length);
    server->entry = server->asked;
    server->tries = 0;
    server->holding = HOLDING;
}

static void say_of_backup(struct server *server, struct line *line)
{
    if (!line_send(server, line))
        lose(server);
}

static void drop_backup(struct server *server, const char *id)
{
    struct line line;
    line_start(&line, "dropped");
    line_add(&line, "id", id);
    say_of_backup(server, &line);
}

/* An offer that cannot be understood is declined here, and so is one beside another. */
static bool take_offer(struct server *server, const struct message *message)
{
    struct lease offered;
    if (!read_lease(message, &offered) || server->has_backup) {
        drop_backup(server, offered.id);
        return false;
    }
    server->backup = offered;
    return server->has_backup = true;
}

static bool is_about_backup(const struct server *server, const struct message *message)
{
    char id[sizeof server->backup.id];
    copy_printable(id, sizeof id, value_of(message, "id"));
    return server->has_backup && !strcmp(id, server->backup.id);
}

static enum lease_event read_lines(struct server *server, char reason[REASON_SIZE])
{
    while (server->fd >= 0) {
        char *line;
        struct message message;
        enum got got = next_line(server, &line);
        bool asks = server->holding == HOLDING_ASKS;
        if (got == GOT_NOTHING_YET) {
            if (!asks || now_ms() < server->due_ms)
                return LEASE_GOES_ON;
            lose(server);
        } else if (got == GOT_CLOSE) {
            lose(server);
        } else if (got != GOT_LINE || !message_read(line, &message) ||
                   (asks && (!strcmp(message.verb, "error") || !strcmp(message.verb, "refused")))) {
            give_up(server);
        } else if (!strcmp(message.verb, "revoked")) {
            copy_reason(reason, &message);
            give_up(server);
            server->has_backup = false;
            return LEASE_REVOKED;
        } else if (asks && !strcmp(message.verb, "attached")) {
            attached(server, &message);
        } else if (!strcmp(message.verb, "backup")) {
            if (take_offer(server, &message))
                return LEASE_BACKUP_OFFERED;
        } else if (!strcmp(message.verb, "drop") && is_about_backup(server, &message)) {
            copy_reason(reason, &message);
            server->has_backup = false;
            return LEASE_BACKUP_ENDED;
        }
    }
    /* The server that goes frees a backup with its connection, and only the first lease is attached. */
    if (!server->has_backup)
        return LEASE_GOES_ON;
    snprintf(reason, REASON_SIZE, "host-server is away");
    server->has_backup = false;
    return LEASE_BACKUP_ENDED;
}

enum lease_event server_event(struct server *server, char reason[REASON_SIZE])
{
    bool due = now_ms() >= server->due_ms;
    switch (server->holding) {
    case HOLDING_NOT:
        return LEASE_GOES_ON;
    case HOLDING_LOST:
        if (due)
            connect_again(server);
        return LEASE_GOES_ON;
    case HOLDING_CONNECTS:
        if (ready(server->fd, POLLOUT, 0))
            ask_to_attach(server);
        else if (due)
            lose(server);
        return LEASE_GOES_ON;
    default:
        return read_lines(server, reason);
    }
}

/* One that is only asked whether it takes the lease hears how that ended, too. */
static void tell(struct server *server, struct line *line)
{
    if (server->fd >= 0 && server->holding != HOLDING_CONNECTS)
        (void)line_send(server, line);
    server_close(server);
}

void server_done(struct server *server, const char *id, int exit_status, double wall_s, double cpu_s)
{
    struct line line;
    line_start(&line, "done");
    line_format(&line, "exit", "%d", exit_status);
    line_format(&line, "wall_s", "%.3f", wall_s);
    line_format(&line, "cpu_s", "%.3f", cpu_s);
    if (*id)
        line_add(&line, "id", id);
    tell(server, &line);
}

void server_failed(struct server *server, int exit_status, const char *reason)
{
    struct line line;
    line_start(&line, "failed");
    line_format(&line, "exit", "%d", exit_status);
    line_add(&line, "reason", reason);
    tell(server, &line);
}

void server_backup_dropped(struct server *server)
{
    if (server->has_backup)
        drop_backup(server, server->backup.id);
    server->has_backup = false;
}

void server_backup_failed(struct server *server, int exit_status, const char *reason)
{
    if (!server->has_backup)
        return;
    server->has_backup = false;
    struct line line;
    line_start(&line, "failed");
    line_add(&line, "id", server->backup.id);
    line_format(&line, "exit", "%d", exit_status);
    line_add(&line, "reason", reason);
    say_of_backup(server, &line);
}

void server_close(struct server *server)
{
    if (server->fd < 0)
        return;
    /* Closing with bytes unread would reset the connection, and our last line could be lost with it. */
    (void)shutdown(server->fd, SHUT_WR);
    for (int i = 0; i < 8 && recv(server->fd, server->buffer, sizeof server->buffer, 0) > 0; i++)
        ;
    close(server->fd);
    server->fd = -1;
}
