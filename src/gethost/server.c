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
 * Not to be known here: what the command is and where it runs.
 */
#include "gethost.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS has SO_NOSIGPIPE instead */
#endif

enum {
    CONNECT_MS = 250,
    FIRST_ANSWER_MS = 1000,
    SILENCE_MS = 15000,
    WAIT_GRACE_MS = 1000, /* for the server to say itself that --wait is over */

    DEFAULT_PORT = 9714,
    WORDS_MAX = 64,
    ADDRESSES_MAX = 8,
    SLOTS_MAX = 4096,
    COUNT_MAX = 1000000,
};

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
    if (!address || !is_address(address) || !host || !is_host(host))
        return false;
    snprintf(lease->address, sizeof lease->address, "%s", address);
    snprintf(lease->host, sizeof lease->host, "%s", host);
    copy_printable(lease->id, sizeof lease->id, value_of(message, "id"));
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

struct address {
    socklen_t length;
    struct sockaddr_storage any;
};

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
        run_die_with(parent_pid);
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

static bool connect_to(struct server *server, const struct address *address, int64_t deadline_ms)
{
    *server = (struct server){.fd = private_fd(socket(address->any.ss_family, SOCK_STREAM, 0))};
    if (server->fd < 0)
        return false;
    (void)fcntl(server->fd, F_SETFL, O_NONBLOCK);
#ifdef SO_NOSIGPIPE
    setsockopt(server->fd, SOL_SOCKET, SO_NOSIGPIPE, &(int){1}, sizeof(int));
#endif
    int error = 0;
    socklen_t size = sizeof error;
    if (connect(server->fd, (const struct sockaddr *)&address->any, address->length) != 0)
        error = errno;
    if (error == EINPROGRESS || error == EINTR) {
        if (!ready(server->fd, POLLOUT, deadline_ms))
            error = ETIMEDOUT;
        else
            getsockopt(server->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    }
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
        if (connect_to(server, &addresses[i], connect_deadline_ms) && line_send(server, &line))
            return true;
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

static enum answer listen_for_answer(struct server *server, const struct question *question,
                                     int64_t first_deadline_ms, char reason[REASON_SIZE])
{
    int64_t deadline_ms = first_deadline_ms;
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
    }
}

/* Ask the servers in order, until one answers. Only ANSWER_LEASE leaves the connection open. */
static enum answer ask(struct server *server, const char *servers, const struct question *question,
                       char reason[REASON_SIZE])
{
    enum answer answer = ANSWER_AWAY;
    int64_t budget_ms = FIRST_ANSWER_MS;
    char *list = strdup(servers), *rest = list, *entry;
    snprintf(reason, REASON_SIZE, "no server is named");
    while (answer == ANSWER_AWAY && rest && (entry = strsep(&rest, ","))) {
        int left = 1;
        for (const char *c = rest; c && *c; c++)
            left += *c == ',';
        left += rest != NULL;
        if (!*entry)
            continue;
        int64_t start_ms = now_ms(), share_ms = budget_ms / left;
        if (reach(server, entry, question->line, start_ms + share_ms, reason)) {
            answer = listen_for_answer(server, question, start_ms + share_ms, reason);
            if (answer != ANSWER_LEASE)
                server_close(server);
        }
        int64_t used_ms = now_ms() - start_ms;
        budget_ms -= used_ms < share_ms ? used_ms : share_ms;
    }
    free(list);
    return answer;
}

enum answer server_request(struct server *server, const char *servers, const struct request *request,
                           struct lease *lease, char reason[REASON_SIZE])
{
    struct question question = {.wait_deadline_ms = INT64_MAX, .lease = lease};
    struct line *line = &question.line;
    line_start(line, "request");
    line_add_builder(line);
    if (request->type)
        line_add(line, "type", request->type);
    if (*request->avoid)
        line_add(line, "avoid", request->avoid);
    if (request->wait_s) {
        line_add(line, "wait_s", request->wait_s);
        question.wait_deadline_ms = now_ms() + WAIT_GRACE_MS + (int64_t)(atof(request->wait_s) * 1e3);
    }
    if (request->compiler)
        line_add(line, "compiler", request->compiler);
    if (request->source)
        line_add(line, "source", request->source);
    char directory[4096];
    if (getcwd(directory, sizeof directory))
        line_add(line, "dir", directory);
    return ask(server, servers, &question, reason);
}

enum answer server_jobs(struct server *server, const char *servers, int *count, char reason[REASON_SIZE])
{
    struct question question = {.wait_deadline_ms = INT64_MAX, .count = count};
    line_start(&question.line, "jobs");
    line_add_builder(&question.line);
    return ask(server, servers, &question, reason);
}

/* ---- while the lease lasts ---- */

enum lease_event server_event(struct server *server, char reason[REASON_SIZE])
{
    for (;;) {
        char *line;
        struct message message;
        enum got got = next_line(server, &line);
        if (got == GOT_NOTHING_YET)
            return LEASE_GOES_ON;
        if (got != GOT_LINE || !message_read(line, &message)) {
            server_close(server);
            return LEASE_LOST;
        }
        if (!strcmp(message.verb, "revoked")) {
            copy_reason(reason, &message);
            return LEASE_REVOKED;
        }
    }
}

static void tell(struct server *server, struct line *line)
{
    if (server->fd >= 0)
        (void)line_send(server, line);
    server_close(server);
}

void server_done(struct server *server, int exit_status, double wall_s, double cpu_s)
{
    struct line line;
    line_start(&line, "done");
    line_format(&line, "exit", "%d", exit_status);
    line_format(&line, "wall_s", "%.3f", wall_s);
    line_format(&line, "cpu_s", "%.3f", cpu_s);
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
