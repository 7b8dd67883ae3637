/* The files of a backup: a second run of the same compile, at the same time, on another host.
 *
 * Both runs would write the same files, and a run that is ended leaves incomplete ones. So the
 * backup writes under temporary names and gethost renames its files if the backup counts. They
 * are beside the final ones, because rename() works only within a file system. gethost's process
 * id makes the names unique among all runs of the same compile.
 *
 * Rejected: a directory in $TMPDIR, which is often another file system. Temporary names for both
 * runs, because then every compile without a backup would pay for the renaming.
 *
 * This file does not know processes, servers, or the options that name files.
 */
#define _GNU_SOURCE
#include "backup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Replace the file name in argv by a temporary one, and note both. */
static bool redirect(char **argv, struct file_name name, struct backup_files *files)
{
    if (!name.word)
        return true;
    enum { SUFFIX_SIZE = sizeof ".backup-" + 3 * sizeof(long) };
    const char *word = argv[name.word];
    size_t size = strlen(word) + SUFFIX_SIZE;
    char *redirected = malloc(size);
    if (!redirected)
        return false;
    snprintf(redirected, size, "%s.backup-%ld", word, (long)getpid());
    argv[name.word] = redirected;
    files->file[files->count].final = word + name.from;
    files->file[files->count++].temporary = redirected + name.from;
    return true;
}

char **backup_command(char **argv, const struct outputs *outputs, struct backup_files *files)
{
    size_t count = 0;
    while (argv[count])
        count++;
    char **words = malloc((count + 1) * sizeof *words);
    if (words)
        memcpy(words, argv, (count + 1) * sizeof *words);
    files->count = 0;
    /* The object comes last: a process that sees a new object also sees its dependencies. */
    bool redirected = words && redirect(words, outputs->dependencies, files) &&
                      redirect(words, outputs->object, files);
    return redirected ? words : NULL;
}

bool backup_keep_files(const struct backup_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        if (rename(files->file[i].temporary, files->file[i].final) != 0)
            return false;
    return true;
}

void backup_remove_files(const struct backup_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        (void)unlink(files->file[i].temporary);
}
