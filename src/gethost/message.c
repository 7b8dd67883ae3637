/* A line that came from host-server, taken apart and checked.
 *
 * What comes from the network is foreign text. It ends up on a terminal and in an environment
 * variable that distcc obeys. So it is checked, here and nowhere else. An address must be
 * numeric, and a port and a number of slots in their ranges. A door must have a name that no other
 * program has. A reason loses its control characters.
 *
 * This file does not know connections, or what a message leads to.
 */
#define _GNU_SOURCE
#include "message.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "door.h"
#include "quoting.h"
#include "text.h"

enum { SLOTS_MAX = 4096 };

/* ---- taking a line apart ---- */

static bool is_name(const char *text)
{
    static const char characters[] = "abcdefghijklmnopqrstuvwxyz0123456789_-";
    return *text >= 'a' && *text <= 'z' && strspn(text, characters) == strlen(text);
}

/* NULL if there is no such key. */
static const char *value_of(const struct message *message, const char *key)
{
    for (size_t i = 0; i < message->count; i++)
        if (strcmp(message->word[i].key, key) == 0)
            return message->word[i].value;
    return NULL;
}

bool message_read(char *line, struct message *message)
{
    *message = (struct message){.verb = strsep(&line, " ")};
    for (char *word; (word = strsep(&line, " "));) {
        const char *key = strsep(&word, "=");
        char *value = word; /* NULL if there was no '=' */
        if (!value || message->count == MESSAGE_WORDS_MAX)
            return false;
        if (!is_name(key) || value_of(message, key) || !unquote(value))
            return false;
        message->word[message->count].key = key;
        message->word[message->count++].value = value;
    }
    return is_name(message->verb);
}

/* ---- what it says ---- */

bool message_is(const struct message *message, const char *verb)
{
    return strcmp(message->verb, verb) == 0;
}

int message_number(const struct message *message, const char *key, int low, int high)
{
    const char *text = value_of(message, key);
    if (!text || !*text || strspn(text, "0123456789") != strlen(text) || strlen(text) > 9)
        return -1;
    int number = atoi(text);
    return number >= low && number <= high ? number : -1;
}

void message_id(const struct message *message, char id[LEASE_ID_SIZE])
{
    copy_printable(id, LEASE_ID_SIZE, value_of(message, "id"));
}

void message_reason(const struct message *message, char reason[REASON_SIZE])
{
    copy_printable(reason, REASON_SIZE, value_of(message, "reason"));
    if (!*reason)
        snprintf(reason, REASON_SIZE, "no reason given");
}

static bool is_address(const char *text)
{
    struct in6_addr address; /* large enough for IPv4, too */
    return strlen(text) < HOST_ADDRESS_SIZE && (inet_pton(AF_INET, text, &address) == 1 ||
                                                inet_pton(AF_INET6, text, &address) == 1);
}

/* No comma is allowed, because host names go back to the server in a list. */
static bool is_host(const char *text)
{
    static const char characters[] = "abcdefghijklmnopqrstuvwxyz"
                                     "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]%";
    size_t length = strlen(text);
    return length > 0 && length < HOST_SIZE && strspn(text, characters) == length;
}

bool message_lease(const struct message *message, struct lease *lease)
{
    const char *address = value_of(message, "address"), *host = value_of(message, "host");
    const char *door = value_of(message, "door");
    if (!address || !is_address(address) || !host || !is_host(host) ||
        (door && !door_is_name(door)))
        return false;
    message_id(message, lease->id);
    snprintf(lease->address, sizeof lease->address, "%s", address);
    snprintf(lease->host, sizeof lease->host, "%s", host);
    snprintf(lease->door, sizeof lease->door, "%s", door ? door : "");
    lease->port = message_number(message, "port", 1, 65535);
    lease->slots = message_number(message, "slots", 1, SLOTS_MAX);
    return lease->port > 0 && lease->slots > 0;
}
