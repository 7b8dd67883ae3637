/* From the list of servers to socket addresses. */
#ifndef GETHOST_ADDRESS_H
#define GETHOST_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum { ENTRY_SIZE = 256, ADDRESSES_MAX = 8 };

struct address {
    socklen_t length;
    struct sockaddr_storage any;
};

/* The list's entries are separated by commas. An empty list has one entry, an empty one. */
int servers_count(const char *servers);

/* Copy an entry, numbered from 0. Returns false if it is empty. One that is too long is cut, and
 * cannot be resolved then: no host name is that long. */
bool servers_entry(const char *servers, int number, char entry[ENTRY_SIZE]);

/* An entry: HOST[:PORT], [ADDRESS]:PORT, or an IPv6 address by itself. */
struct endpoint {
    char host[ENTRY_SIZE];
    int port;
};

/* False if the entry is not in one of these forms. */
bool endpoint_read(const char *entry, struct endpoint *);

/* Fill in the endpoint's addresses and return their number. Returns 0 if the name cannot be
 * resolved before the deadline. */
size_t endpoint_resolve(const struct endpoint *, int64_t deadline_ms,
                        struct address addresses[ADDRESSES_MAX]);

#endif
