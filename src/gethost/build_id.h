/* The build id of a program: a digest that the linker wrote into it. */
#ifndef GETHOST_BUILD_ID_H
#define GETHOST_BUILD_ID_H

#include <stdbool.h>

enum { BUILD_ID_BYTES_MAX = 64, BUILD_ID_TEXT_SIZE = 2 * BUILD_ID_BYTES_MAX + 1 };

/* Read the build id of an open file as hexadecimal digits. False if it has none, or is not a sound
 * ELF file for machines like this one. */
bool build_id_read(int fd, char text[BUILD_ID_TEXT_SIZE]);

#endif
