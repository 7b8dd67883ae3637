/* From the list of servers to socket addresses. See address.h.
 *
 * Most builders name their server by a numeric address or as localhost. Both are cheap: no name
 * service is asked.
 *
 * This file does not know the protocol.
 */
#define _GNU_SOURCE
#include "address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "descriptors.h"

enum { DEFAULT_PORT = 9714 }; /* of host-server, for requests */

/* ---- the list and its entries ---- */

int servers_count(const char *servers)
{
    int count = 1;
    for (; *servers; servers++)
        count += *servers == ',';
    return count;
}

bool servers_entry(const char *servers, int number, char entry[ENTRY_SIZE])
{
    for (; number > 0; number--)
        servers = strchr(servers, ',') + 1;
    size_t length = strcspn(servers, ",");
    snprintf(entry, ENTRY_SIZE, "%.*s", (int)length, servers);
    return length > 0;
}

static bool read_port(const char *text, int *port)
{
    if (!*text || strspn(text, "0123456789") != strlen(text) || strlen(text) > 5)
        return false;
    *port = atoi(text);
    return *port > 0 && *port <= 65535;
}

bool endpoint_read(const char *entry, struct endpoint *endpoint)
{
    const char *host = entry, *host_end, *port = NULL; /* the port's colon */
    if (*entry == '[') {
        host++;
        host_end = strchr(host, ']');
        if (!host_end || (host_end[1] && host_end[1] != ':'))
            return false;
        if (host_end[1])
            port = host_end + 1;
    } else {
        host_end = strchr(host, ':');
        if (host_end && !strchr(host_end + 1, ':'))
            port = host_end;
        else /* no colon, or an IPv6 address */
            host_end = host + strlen(host);
    }
    size_t length = (size_t)(host_end - host);
    if (!length || length >= sizeof endpoint->host)
        return false;
    snprintf(endpoint->host, sizeof endpoint->host, "%.*s", (int)length, host);
    endpoint->port = DEFAULT_PORT;
    return !port || read_port(port + 1, &endpoint->port);
}

/* ---- addresses ---- */

static bool read_numeric(const char *host, int port, struct address *address)
{
    struct sockaddr_in ipv4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 ipv6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    memset(address, 0, sizeof *address);
    if (inet_pton(AF_INET, host, &ipv4.sin_addr) == 1) {
        memcpy(&address->any, &ipv4, address->length = sizeof ipv4);
        return true;
    }
    if (inet_pton(AF_INET6, host, &ipv6.sin6_addr) == 1) {
        memcpy(&address->any, &ipv6, address->length = sizeof ipv6);
        return true;
    }
    return false;
}

static size_t look_up(const struct endpoint *endpoint, struct address addresses[ADDRESSES_MAX])
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    char service[8];
    snprintf(service, sizeof service, "%d", endpoint->port);
    if (getaddrinfo(endpoint->host, service, &hints, &found) != 0)
        return 0;
    size_t count = 0;
    for (; found && count < ADDRESSES_MAX; found = found->ai_next) {
        memset(&addresses[count], 0, sizeof *addresses);
        memcpy(&addresses[count].any, found->ai_addr, found->ai_addrlen);
        addresses[count++].length = found->ai_addrlen;
    }
    return count;
}

/* Look up the name in a child, because getaddrinfo() has no time limit, and needs half a minute
 * if the name server is down. A thread could not be ended. */
static size_t look_up_in_child(const struct endpoint *endpoint, int64_t deadline_ms,
                               struct address addresses[ADDRESSES_MAX])
{
    int ends[2];
    if (pipe(ends) != 0)
        return 0;
    ends[0] = private_fd(ends[0]);
    ends[1] = private_fd(ends[1]);
    pid_t parent = getpid(), child = fork();
    if (child == 0) {
        die_with_parent(parent);
        size_t count = look_up(endpoint, addresses);
        /* Less than PIPE_BUF, so it arrives at once. */
        write_all(ends[1], (const char *)addresses, count * sizeof *addresses);
        _exit(0);
    }
    close(ends[1]);
    ssize_t length = 0;
    if (child > 0 && wait_for_fd(ends[0], POLLIN, deadline_ms))
        length = read(ends[0], addresses, ADDRESSES_MAX * sizeof *addresses);
    close(ends[0]);
    if (child > 0) {
        kill(child, SIGKILL);
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    return length > 0 ? (size_t)length / sizeof *addresses : 0;
}

size_t endpoint_resolve(const struct endpoint *endpoint, int64_t deadline_ms,
                        struct address addresses[ADDRESSES_MAX])
{
    int port = endpoint->port;
    if (strcmp(endpoint->host, "localhost") == 0)
        return (size_t)read_numeric("127.0.0.1", port, &addresses[0]) +
               read_numeric("::1", port, &addresses[1]);
    if (read_numeric(endpoint->host, port, &addresses[0]))
        return 1;
    return look_up_in_child(endpoint, deadline_ms, addresses);
}
