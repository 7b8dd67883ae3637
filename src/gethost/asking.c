/* Asking host-server for a lease, or for the number of jobs that is worth starting.
 *
 * Every wait has a limit. A server on the same network accepts within milliseconds, and then
 * answers within milliseconds, if only that the request has to wait. CONNECT_MS and
 * FIRST_ANSWER_MS allow for a loaded server. FIRST_ANSWER_MS is for all servers of the list
 * together: each gets an equal share of what is left. Because away.c remembers servers that do
 * not answer, this is all that a user loses to them in ten seconds. A server that lets us wait
 * sends a sign of life every five seconds, and SILENCE_MS is three of those.
 *
 * A server may be stopped and started again while hundreds of gethosts wait for a lease. They ask
 * again for a while, at random moments, so that the new server is not flooded.
 *
 * This file does not know what the command is, or where it runs.
 */
#define _GNU_SOURCE
#include "asking.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "away.h"
#include "clock.h"
#include "line.h"
#include "message.h"
#include "text.h"

enum {
    CONNECT_MS = 250,
    FIRST_ANSWER_MS = 1000,
    SILENCE_MS = 15000,
    WAIT_GRACE_MS = 1000, /* lets the server say itself that the time of --wait is over */

    /* After a server went away that had let us wait: it may come back, or another may take over. */
    ASK_AGAIN_MS = 5000,
    PAUSE_LEAST_MS = 200,
    PAUSE_RANDOM_MS = 500, /* on top of that, at most */

    JOBS_MAX = 1000000,
};

struct question {
    struct line line;
    int64_t wait_deadline_ms; /* the end of --wait; INT64_MAX: none */
    struct lease *lease;      /* the answer goes here, */
    int *jobs;                /* or here; the other one is NULL */
    bool uses_away_notes;
    bool asks_all_servers;   /* also those that are noted as away */
    bool lost_while_waiting; /* the server went away after it had let us wait */
    bool is_news;            /* a server is away, and no gethost has noticed before */
};

/* ---- one server ---- */

static enum answer read_answer(const struct message *message, const struct question *question,
                               char reason[REASON_SIZE])
{
    if (message_is(message, "refused") || message_is(message, "error")) {
        message_reason(message, reason);
        return ANSWER_REFUSED;
    }
    if (question->lease && message_is(message, "lease") && message_lease(message, question->lease))
        return ANSWER_LEASE;
    if (question->jobs && message_is(message, "jobs") &&
        (*question->jobs = message_number(message, "count", 1, JOBS_MAX)) > 0)
        return ANSWER_JOBS;
    snprintf(reason, REASON_SIZE, "the server's answer is not valid");
    return ANSWER_AWAY;
}

static enum answer wait_for_answer(struct connection *connection, struct question *question,
                                   int64_t first_deadline_ms, char reason[REASON_SIZE])
{
    int64_t deadline_ms = first_deadline_ms;
    bool waits = false;
    for (;;) {
        char *line;
        struct message message;
        int64_t until_ms = earlier_ms(deadline_ms, question->wait_deadline_ms);
        switch (connection_wait_for_line(connection, until_ms, &line)) {
        case RECEIVED_LINE:
            break;
        case RECEIVED_END:
            snprintf(reason, REASON_SIZE, "the server closed the connection");
            question->lost_while_waiting = question->lost_while_waiting || waits;
            return ANSWER_AWAY;
        case RECEIVED_NOTHING:
            if (until_ms < deadline_ms) {
                snprintf(reason, REASON_SIZE, "no free slot within the time of --wait");
                return ANSWER_REFUSED;
            }
            snprintf(reason, REASON_SIZE, "the server does not answer");
            return ANSWER_AWAY;
        default:
            snprintf(reason, REASON_SIZE, "the server's answer is not a line of text");
            return ANSWER_AWAY;
        }
        if (!message_read(line, &message)) {
            snprintf(reason, REASON_SIZE, "the server's answer is not valid");
            return ANSWER_AWAY;
        }
        if (!question->lease || !message_is(&message, "wait"))
            return read_answer(&message, question, reason);
        deadline_ms = now_ms() + SILENCE_MS;
        waits = true;
    }
}

/* Connect to a server and send it the question. */
static bool reach(struct grant *grant, const char *entry, const struct line *line,
                  int64_t deadline_ms, char reason[REASON_SIZE])
{
    struct endpoint endpoint;
    struct address addresses[ADDRESSES_MAX];
    char shown[ENTRY_SIZE];
    copy_printable(shown, sizeof shown, entry);
    if (!endpoint_read(entry, &endpoint)) {
        snprintf(reason, REASON_SIZE, "'%.100s' is not HOST[:PORT]", shown);
        return false;
    }
    size_t count = endpoint_resolve(&endpoint, deadline_ms, addresses);
    if (!count)
        snprintf(reason, REASON_SIZE, "cannot resolve the name %.100s", shown);
    for (size_t i = 0; i < count; i++) {
        struct connection *connection = &grant->connection;
        int64_t connect_deadline_ms = earlier_ms(now_ms() + CONNECT_MS, deadline_ms);
        if (connection_open(connection, &addresses[i], connect_deadline_ms) &&
            connection_send(connection, line)) {
            grant->address = addresses[i];
            return true;
        }
        snprintf(reason, REASON_SIZE, "%.100s: %s", shown, strerror(errno));
        connection_close(connection);
    }
    return false;
}

/* ---- all servers ---- */

/* Ask one server of the list. Only a granted lease leaves the connection open. */
static enum answer ask_server(struct grant *grant, const char *entry, struct question *question,
                              int64_t deadline_ms, char reason[REASON_SIZE])
{
    enum answer answer = ANSWER_AWAY;
    if (reach(grant, entry, &question->line, deadline_ms, reason)) {
        answer = wait_for_answer(&grant->connection, question, deadline_ms, reason);
        if (answer != ANSWER_LEASE)
            connection_close(&grant->connection);
    }
    if (question->uses_away_notes && answer != ANSWER_AWAY)
        away_unmark(entry);
    else if (question->uses_away_notes)
        question->is_news = away_mark(entry) || question->is_news;
    return answer;
}

/* Ask the servers in order, until one of them answers. */
static enum answer ask_each(struct grant *grant, const char *servers, struct question *question,
                            char reason[REASON_SIZE])
{
    enum answer answer = ANSWER_AWAY;
    int64_t budget_ms = FIRST_ANSWER_MS;
    int count = servers_count(servers);
    snprintf(reason, REASON_SIZE, "no server is named");
    for (int number = 0; answer == ANSWER_AWAY && number < count; number++) {
        char entry[ENTRY_SIZE];
        if (!servers_entry(servers, number, entry))
            continue;
        if (question->uses_away_notes && !question->asks_all_servers && away_is_marked(entry)) {
            snprintf(reason, REASON_SIZE, "host-server was away a moment ago");
            continue;
        }
        int64_t start_ms = now_ms(), share_ms = budget_ms / (count - number);
        answer = ask_server(grant, entry, question, start_ms + share_ms, reason);
        grant->entry = number;
        int64_t used_ms = now_ms() - start_ms;
        budget_ms -= used_ms < share_ms ? used_ms : share_ms;
    }
    return answer;
}

/* Ask each server; and if one went away that had let us wait, ask them again for a while. */
static enum answer ask(struct grant *grant, const char *servers, struct question *question,
                       char reason[REASON_SIZE])
{
    int64_t give_up_ms = -1;
    for (;;) {
        enum answer answer = ask_each(grant, servers, question, reason);
        if (answer != ANSWER_AWAY)
            return answer;
        if (question->lost_while_waiting) {
            give_up_ms = now_ms() + ASK_AGAIN_MS;
            if (!question->asks_all_servers)
                line_add(&question->line, "returning", "yes");
            question->asks_all_servers = true;
            question->lost_while_waiting = false;
        }
        int64_t next_ms = now_ms() + PAUSE_LEAST_MS + random_ms(PAUSE_RANDOM_MS);
        if (next_ms >= give_up_ms || next_ms >= question->wait_deadline_ms)
            return answer;
        sleep_until(next_ms);
    }
}

enum answer ask_for_lease(const struct request *request, struct grant *grant,
                          char reason[REASON_SIZE], bool *is_news)
{
    struct question question = {
        .wait_deadline_ms = INT64_MAX, .lease = &grant->lease, .uses_away_notes = true};
    line_start(&question.line, "request");
    request_add_compile(&question.line, request);
    if (request->wait_s) {
        line_add(&question.line, "wait_s", request->wait_s);
        int64_t wait_ms = (int64_t)(atof(request->wait_s) * 1e3);
        question.wait_deadline_ms = now_ms() + wait_ms + WAIT_GRACE_MS;
    }
    grant->connection.fd = -1;
    enum answer answer = ask(grant, request->servers, &question, reason);
    *is_news = question.is_news;
    return answer;
}

enum answer ask_for_jobs(const char *servers, int *jobs, char reason[REASON_SIZE])
{
    struct question question = {.wait_deadline_ms = INT64_MAX, .jobs = jobs};
    line_start(&question.line, "jobs");
    request_add_builder(&question.line);
    struct grant grant = {.connection = {.fd = -1}};
    return ask(&grant, servers, &question, reason);
}
