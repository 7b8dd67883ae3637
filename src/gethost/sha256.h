/* SHA-256, as FIPS 180-4 defines it. */
#ifndef GETHOST_SHA256_H
#define GETHOST_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { SHA256_TEXT_SIZE = 65 };

struct sha256 {
    uint32_t state[8];
    uint64_t length; /* of all data so far, in bytes */
    unsigned char block[64];
};

void sha256_start(struct sha256 *);
void sha256_add(struct sha256 *, const void *data, size_t length);

/* Write the digest as 64 hexadecimal digits. */
void sha256_end(struct sha256 *, char text[SHA256_TEXT_SIZE]);

#endif
