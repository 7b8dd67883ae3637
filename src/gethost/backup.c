/* The files of a backup: a second run of the same compile, at the same time, on another host.
 *
 * Both runs would write the same files, and whoever of them is ended would leave his half of one. So the
 * second writes under names of its own, beside the real ones because a file can be renamed into its place
 * within a file system only, and what it wrote is renamed if it counts. The name has gethost's process id
 * in it, which no other run of the same file has.
 *
 * Rejected: a directory in $TMPDIR, which is another file system as often as not; and letting both runs
 * write under such names, because then a compile without a backup would pay for it, too.
 *
 * Not to be known here: processes, servers, and which options name files.
 */
#include "gethost.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Let the word name a temporary file instead, and remember what that is to become. */
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

char **backup_command(char **argv, const struct command *command, struct backup_files *files)
{
    size_t count = 0;
    while (argv[count])
        count++;
    char **words = malloc((count + 1) * sizeof *words);
    if (words)
        memcpy(words, argv, (count + 1) * sizeof *words);
    files->count = 0;
    /* The object last: who sees a new one sees its dependencies, too. */
    bool redirected = words && redirect(words, command->dependencies, files) &&
                      redirect(words, command->object, files);
    return redirected ? words : NULL;
}

bool backup_keep(const struct backup_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        if (rename(files->file[i].temporary, files->file[i].final) != 0)
            return false;
    return true;
}

void backup_remove(const struct backup_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        (void)unlink(files->file[i].temporary);
}
