/* A lease: the right to use one slot of a host, as host-server granted it. */
#ifndef GETHOST_LEASE_H
#define GETHOST_LEASE_H

enum { LEASE_ID_SIZE = 64, HOST_SIZE = 256, HOST_ADDRESS_SIZE = 64, DOOR_SIZE = 128 };

struct lease {
    char id[LEASE_ID_SIZE];
    char host[HOST_SIZE];            /* its name */
    char address[HOST_ADDRESS_SIZE]; /* numeric, IPv4 or IPv6 */
    int port;                        /* of its distccd */
    int slots;                       /* of the host */
    char door[DOOR_SIZE];            /* the compiler's name there; empty: its own name */
};

#endif
