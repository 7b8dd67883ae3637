/* The lease while the command runs. See holding.h.
 *
 * One connection is one lease: as long as it is open, the server counts the slot as ours. A
 * server may be stopped and started again while hundreds of gethosts hold a lease. Each of them
 * tells the new server of its lease (`attach`); otherwise the server would grant our slot to
 * another compile. They do so at random moments, so that the new server is not flooded.
 *
 * This file does not know what the command is, or where it runs.
 */
#define _GNU_SOURCE
#include "holding.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "address.h"
#include "array.h"
#include "away.h"
#include "clock.h"
#include "connection.h"
#include "descriptors.h"
#include "line.h"
#include "message.h"

enum {
    TRIES_AT_SAME_SERVER = 3, /* at the one that granted the lease; then the others of the list */
    ATTACH_ANSWER_MS = 1000,  /* for connecting; and again for the answer */
    RESOLVE_MS = 100,         /* the command's end cannot be noticed meanwhile */
};

/* The longest pauses before the first try to attach, the second, and each later one. */
static const int pause_ms[] = {200, 500, 1000};

enum state {
    UNHELD,     /* no server knows the lease, and none will be told */
    HELD,       /* the connection is open */
    LOST,       /* the connection broke; connect again at `due_ms` */
    CONNECTING, /* until `due_ms` */
    ATTACHING,  /* waiting for the answer to `attach`, until `due_ms` */
};

struct holding {
    enum state state;
    const struct request *request;
    struct lease lease, backup;
    bool has_backup; /* it was offered, and neither side has ended it */
    struct connection connection;
    struct address address; /* of the server that has, or had, the lease */
    int entry;              /* the number of that server in the list */
    int asked;              /* the number of the server that was last asked to attach the lease */
    int tries;              /* to attach it, without success */
    int64_t granted_ms, due_ms;
};

/* ---- its beginning and its state ---- */

struct holding *holding_start(const struct request *request, struct grant *grant)
{
    struct holding *holding = malloc(sizeof *holding);
    if (!holding) {
        connection_close(&grant->connection);
        return NULL;
    }
    holding->state = HELD;
    holding->request = request;
    holding->lease = grant->lease;
    holding->has_backup = false;
    connection_move(&holding->connection, &grant->connection);
    holding->address = grant->address;
    holding->entry = holding->asked = grant->entry;
    holding->tries = 0;
    holding->granted_ms = holding->due_ms = now_ms();
    return holding;
}

const struct lease *holding_lease(const struct holding *holding)
{
    return &holding->lease;
}

const struct lease *holding_backup(const struct holding *holding)
{
    return holding->has_backup ? &holding->backup : NULL;
}

int holding_fd(const struct holding *holding, short *events)
{
    *events = holding->state == CONNECTING ? POLLOUT : POLLIN;
    return holding->connection.fd;
}

int64_t holding_due_ms(const struct holding *holding)
{
    return holding->state == UNHELD || holding->state == HELD ? -1 : holding->due_ms;
}

static void set_state(struct holding *holding, enum state state, int within_ms)
{
    holding->state = state;
    holding->due_ms = now_ms() + within_ms;
}

/* The connection broke: the command goes on, and the lease is attached again later. */
static void lose_connection(struct holding *holding)
{
    connection_close(&holding->connection);
    int last = (int)ARRAY_LENGTH(pause_ms) - 1;
    int longest_ms = pause_ms[holding->tries < last ? holding->tries : last];
    holding->tries++;
    set_state(holding, LOST, longest_ms / 4 + random_ms(longest_ms * 3 / 4));
}

static void give_up_lease(struct holding *holding)
{
    connection_close(&holding->connection);
    holding->state = UNHELD;
}

/* Send a line while the lease lasts. */
static void tell(struct holding *holding, const struct line *line)
{
    if (!connection_send(&holding->connection, line))
        lose_connection(holding);
}

/* ---- attaching it again ---- */

/* The address of the server to ask next, whose number becomes `asked`. False if it has none. */
static bool next_address(struct holding *holding, struct address *address)
{
    struct endpoint endpoint;
    struct address addresses[ADDRESSES_MAX];
    char entry[ENTRY_SIZE];
    const char *servers = holding->request->servers;
    int others = holding->tries - TRIES_AT_SAME_SERVER;
    if (others <= 0) {
        holding->asked = holding->entry;
        *address = holding->address;
        return true;
    }
    holding->asked = (holding->entry + others) % servers_count(servers);
    if (!servers_entry(servers, holding->asked, entry) || !endpoint_read(entry, &endpoint))
        return false;
    size_t count = endpoint_resolve(&endpoint, now_ms() + RESOLVE_MS, addresses);
    if (count)
        *address = addresses[(size_t)holding->tries % count];
    return count > 0;
}

static void connect_again(struct holding *holding)
{
    struct address address;
    int error = ENOENT;
    if (next_address(holding, &address))
        error = connection_begin(&holding->connection, &address);
    if (error && error != EINPROGRESS)
        lose_connection(holding);
    else
        set_state(holding, CONNECTING, ATTACH_ANSWER_MS);
}

static void ask_to_attach(struct holding *holding)
{
    const struct lease *lease = &holding->lease;
    struct line line;
    line_start(&line, "attach");
    line_add(&line, "id", lease->id);
    line_add(&line, "host", lease->host);
    if (*lease->door)
        line_add(&line, "door", lease->door);
    line_add_format(&line, "port", "%d", lease->port);
    line_add_format(&line, "running_s", "%.3f", (double)(now_ms() - holding->granted_ms) / 1e3);
    request_add_compile(&line, holding->request);
    struct connection *connection = &holding->connection;
    if (connection_error(connection) || !connection_send(connection, &line))
        lose_connection(holding);
    else
        set_state(holding, ATTACHING, ATTACH_ANSWER_MS);
}

/* The server took the lease. */
static void hold_again(struct holding *holding, const struct message *message)
{
    char entry[ENTRY_SIZE];
    if (servers_entry(holding->request->servers, holding->asked, entry))
        away_unmark(entry); /* so that other gethosts ask it again */
    message_id(message, holding->lease.id);
    const struct lease *lease = &holding->lease;
    say_verbosely("lease %s on %s: attached to host-server %s", lease->id, lease->host, entry);
    struct address *address = &holding->address;
    address->length = sizeof address->any;
    (void)getpeername(holding->connection.fd, (struct sockaddr *)&address->any, &address->length);
    holding->entry = holding->asked;
    holding->tries = 0;
    holding->state = HELD;
}

/* ---- what the server says ---- */

static void send_dropped(struct holding *holding, const char *id)
{
    struct line line;
    line_start(&line, "dropped");
    line_add(&line, "id", id);
    tell(holding, &line);
}

/* Take the offer of a backup. It is declined at once if it is not valid, we did not ask for
 * backups, or there is one already. */
static enum holding_event take_offer(struct holding *holding, const struct message *message)
{
    struct lease offered;
    bool is_wanted = holding->request->can_back_up && !holding->has_backup;
    if (is_wanted && message_lease(message, &offered)) {
        holding->backup = offered;
        holding->has_backup = true;
        return HOLDING_BACKUP_OFFERED;
    }
    char id[LEASE_ID_SIZE];
    message_id(message, id);
    send_dropped(holding, id);
    return HOLDING_UNCHANGED;
}

static bool is_about_backup(const struct holding *holding, const struct message *message)
{
    char id[LEASE_ID_SIZE];
    message_id(message, id);
    return holding->has_backup && !strcmp(id, holding->backup.id);
}

static enum holding_event take_message(struct holding *holding, const struct message *message,
                                       char reason[REASON_SIZE])
{
    bool is_attaching = holding->state == ATTACHING;
    if (is_attaching && (message_is(message, "error") || message_is(message, "refused"))) {
        give_up_lease(holding);
    } else if (message_is(message, "revoked")) {
        message_reason(message, reason);
        give_up_lease(holding);
        holding->has_backup = false;
        return HOLDING_REVOKED;
    } else if (is_attaching && message_is(message, "attached")) {
        hold_again(holding, message);
    } else if (message_is(message, "backup")) {
        return take_offer(holding, message);
    } else if (message_is(message, "drop") && is_about_backup(holding, message)) {
        message_reason(message, reason);
        holding->has_backup = false;
        return HOLDING_BACKUP_ENDED;
    }
    return HOLDING_UNCHANGED; /* other messages may come from a newer server */
}

static enum holding_event read_messages(struct holding *holding, char reason[REASON_SIZE])
{
    while (holding->connection.fd >= 0) {
        char *line;
        struct message message;
        enum received received = connection_next_line(&holding->connection, &line);
        if (received == RECEIVED_NOTHING) {
            if (holding->state != ATTACHING || now_ms() < holding->due_ms)
                return HOLDING_UNCHANGED;
            lose_connection(holding);
        } else if (received == RECEIVED_END) {
            lose_connection(holding);
        } else if (received != RECEIVED_LINE || !message_read(line, &message)) {
            give_up_lease(holding);
        } else {
            enum holding_event event = take_message(holding, &message, reason);
            if (event != HOLDING_UNCHANGED)
                return event;
        }
    }
    /* The server ends a backup with its connection. Only the lease itself is attached again. */
    if (!holding->has_backup)
        return HOLDING_UNCHANGED;
    snprintf(reason, REASON_SIZE, "host-server is away");
    holding->has_backup = false;
    return HOLDING_BACKUP_ENDED;
}

enum holding_event holding_next_event(struct holding *holding, char reason[REASON_SIZE])
{
    bool is_due = now_ms() >= holding->due_ms;
    switch (holding->state) {
    case UNHELD:
        return HOLDING_UNCHANGED;
    case LOST:
        if (is_due)
            connect_again(holding);
        return HOLDING_UNCHANGED;
    case CONNECTING:
        if (wait_for_fd(holding->connection.fd, POLLOUT, now_ms()))
            ask_to_attach(holding);
        else if (is_due)
            lose_connection(holding);
        return HOLDING_UNCHANGED;
    default:
        return read_messages(holding, reason);
    }
}

/* ---- what the server is told ---- */

void holding_drop_backup(struct holding *holding)
{
    if (holding->has_backup)
        send_dropped(holding, holding->backup.id);
    holding->has_backup = false;
}

void holding_backup_failed(struct holding *holding, int exit_status, const char *reason)
{
    if (!holding->has_backup)
        return;
    holding->has_backup = false;
    struct line line;
    line_start(&line, "failed");
    line_add(&line, "id", holding->backup.id);
    line_add_format(&line, "exit", "%d", exit_status);
    line_add(&line, "reason", reason);
    tell(holding, &line);
}

/* Send the last line. A server that has not answered `attach` yet gets it, too. */
static void end_with(struct holding *holding, const struct line *line)
{
    if (holding->connection.fd >= 0 && holding->state != CONNECTING)
        (void)connection_send(&holding->connection, line);
    holding_end(holding);
}

void holding_done(struct holding *holding, const char *id, int exit_status, double wall_s,
                  double cpu_s)
{
    struct line line;
    line_start(&line, "done");
    line_add_format(&line, "exit", "%d", exit_status);
    line_add_format(&line, "wall_s", "%.3f", wall_s);
    line_add_format(&line, "cpu_s", "%.3f", cpu_s);
    if (*id)
        line_add(&line, "id", id);
    end_with(holding, &line);
}

void holding_failed(struct holding *holding, int exit_status, const char *reason)
{
    struct line line;
    line_start(&line, "failed");
    line_add_format(&line, "exit", "%d", exit_status);
    line_add(&line, "reason", reason);
    end_with(holding, &line);
}

void holding_end(struct holding *holding)
{
    connection_close(&holding->connection);
    free(holding);
}
