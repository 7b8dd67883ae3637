/* The build id of a program: an ELF note of the type NT_GNU_BUILD_ID.
 *
 * Linkers compute it from all that they put into the program, so it stands for the contents. It is
 * read in microseconds, and the contents of a compiler are tens of megabytes.
 *
 * The file may be damaged, or made to do harm. So every number from it is checked before it is
 * used.
 *
 * This file does not know what the program is.
 */
#define _GNU_SOURCE
#include "build_id.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    SEGMENT_NOTES = 4, /* PT_NOTE */
    NOTE_BUILD_ID = 3, /* NT_GNU_BUILD_ID */
    SEGMENTS_MAX = 256,
    NOTES_SIZE_MAX = 16 * 1024,
    OFFSET_MAX = INT32_MAX, /* what we look for is near the beginning of the file */
    HEADER_SIZE_MAX = 64,
};

/* Where the numbers are that we need. A wide number has 4 bytes in a 32-bit file, and 8 in a
 * 64-bit file. */
struct layout {
    size_t header_size, entry_size, wide;
    size_t table, table_entry_size, table_count;       /* in the file's header */
    size_t segment_type, segment_offset, segment_size; /* in an entry of the table of segments */
};

static const struct layout layout_32 = {52, 32, 4, 28, 42, 44, 0, 4, 16};
static const struct layout layout_64 = {64, 56, 8, 32, 54, 56, 0, 8, 32};

static bool read_at(int fd, uint64_t offset, void *to, size_t length)
{
    return offset <= OFFSET_MAX && pread(fd, to, length, (off_t)offset) == (ssize_t)length;
}

static uint64_t number_at(const unsigned char *from, size_t bytes)
{
    uint16_t two;
    uint32_t four;
    uint64_t eight;
    if (bytes == sizeof two) {
        memcpy(&two, from, sizeof two);
        return two;
    }
    if (bytes == sizeof four) {
        memcpy(&four, from, sizeof four);
        return four;
    }
    memcpy(&eight, from, sizeof eight);
    return eight;
}

/* NULL unless these are the first bytes of an ELF file with this machine's order of bytes. */
static const struct layout *layout_of(const unsigned char ident[6])
{
    const uint16_t one = 1;
    unsigned char is_little, little = 1, big = 2;
    memcpy(&is_little, &one, 1);
    if (memcmp(ident, "\177ELF", 4) != 0 || ident[5] != (is_little ? little : big))
        return NULL;
    return ident[4] == 1 ? &layout_32 : ident[4] == 2 ? &layout_64 : NULL;
}

/* Notes and their parts begin at multiples of four bytes. */
static size_t padded(uint32_t length)
{
    return ((size_t)length + 3) / 4 * 4;
}

/* Find the build id among the notes of a segment. */
static bool find_build_id(const unsigned char *notes, size_t length, char *text)
{
    static const char owner[4] = "GNU";
    enum { NOTE_HEADER_SIZE = 12 };
    while (length >= NOTE_HEADER_SIZE) {
        uint32_t name_size = (uint32_t)number_at(notes, 4);
        uint32_t value_size = (uint32_t)number_at(notes + 4, 4);
        uint32_t type = (uint32_t)number_at(notes + 8, 4);
        notes += NOTE_HEADER_SIZE;
        length -= NOTE_HEADER_SIZE;
        if (padded(name_size) > length || value_size > length - padded(name_size))
            return false;
        const unsigned char *value = notes + padded(name_size);
        if (type == NOTE_BUILD_ID && name_size == sizeof owner &&
            memcmp(notes, owner, sizeof owner) == 0 && value_size > 0 &&
            value_size <= BUILD_ID_BYTES_MAX) {
            for (uint32_t i = 0; i < value_size; i++)
                snprintf(text + 2 * i, 3, "%02x", value[i]);
            return true;
        }
        size_t used = padded(name_size) + padded(value_size);
        if (used > length)
            return false;
        notes += used;
        length -= used;
    }
    return false;
}

static bool read_segment(int fd, const struct layout *layout, const unsigned char *entry,
                         char *text)
{
    unsigned char notes[NOTES_SIZE_MAX];
    uint64_t offset = number_at(entry + layout->segment_offset, layout->wide);
    uint64_t size = number_at(entry + layout->segment_size, layout->wide);
    return number_at(entry + layout->segment_type, 4) == SEGMENT_NOTES && size <= sizeof notes &&
           read_at(fd, offset, notes, (size_t)size) && find_build_id(notes, (size_t)size, text);
}

bool build_id_read(int fd, char text[BUILD_ID_TEXT_SIZE])
{
    unsigned char header[HEADER_SIZE_MAX], entry[HEADER_SIZE_MAX];
    if (!read_at(fd, 0, header, layout_32.header_size))
        return false;
    const struct layout *layout = layout_of(header);
    if (!layout || !read_at(fd, 0, header, layout->header_size) ||
        number_at(header + layout->table_entry_size, 2) != layout->entry_size)
        return false;
    uint64_t table = number_at(header + layout->table, layout->wide);
    size_t count = (size_t)number_at(header + layout->table_count, 2);
    for (size_t i = 0; table <= OFFSET_MAX && i < count && i < SEGMENTS_MAX; i++)
        if (read_at(fd, table + i * layout->entry_size, entry, layout->entry_size) &&
            read_segment(fd, layout, entry, text))
            return true;
    return false;
}
