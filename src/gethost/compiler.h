/* A compiler, as gethost identified it. */
#ifndef GETHOST_COMPILER_H
#define GETHOST_COMPILER_H

#include "say.h"

enum {
    COMPILER_ID_SIZE = 17, /* 16 hexadecimal digits, of which the last is a letter other than c */
    COMPILER_FIELD_SIZE = 100,
    COMPILER_TEXT_SIZE = 320,
    COMPILER_PATH_SIZE = 4096,
};

struct compiler {
    char id[COMPILER_ID_SIZE]; /* equal for equal compilers only; empty: it has none */
    char reason[REASON_SIZE];  /* why it has none, as a sentence */
    char name[COMPILER_FIELD_SIZE];    /* gcc, g++, clang or clang++, perhaps after a target */
    char version[COMPILER_FIELD_SIZE]; /* 12.2.0 */
    char target[COMPILER_FIELD_SIZE];  /* x86_64-linux-gnu */
    char text[COMPILER_TEXT_SIZE];     /* for people: gcc 12.2.0-14 (x86_64-linux-gnu) */
    char path[COMPILER_PATH_SIZE]; /* of its driver, absolute; empty if there is no such program */
};

#endif
