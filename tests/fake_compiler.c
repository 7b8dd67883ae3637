/* A compiler's driver for tests: a program that answers as it is told to.
 *
 * The files in the directory `answers` beside it are what it prints: `-v`, and `cc1`, `cc1plus`,
 * `as` for -print-prog-name=. Instead of an answer it can do something else, if the directory has a
 * file of this name: `hangs`, `floods`, `stays` (a child keeps the output open), `upgrades` (it
 * changes cc1, whose name is in the file). Each question is noted in the file `asked`.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char place[PATH_MAX];

static FILE *answer_file(const char *name, const char *mode)
{
    char path[2 * PATH_MAX];
    snprintf(path, sizeof path, "%s/answers/%s", place, name);
    return fopen(path, mode);
}

static void print_file(const char *name)
{
    FILE *file = answer_file(name, "r");
    for (int c; file && (c = fgetc(file)) != EOF;)
        putchar(c);
    if (!file)
        printf("%s\n", name);
}

static void upgrade(FILE *names_file)
{
    char path[PATH_MAX] = "";
    FILE *file = fgets(path, sizeof path, names_file) ? fopen(path, "a") : NULL;
    if (file) {
        fputs("more", file);
        fclose(file);
    }
}

int main(int argc, char **argv)
{
    const char *question = argc > 1 ? argv[1] : "";
    ssize_t length = readlink("/proc/self/exe", place, sizeof place - 1);
    if (length < 0)
        return 1;
    dirname(place);
    FILE *asked = answer_file("asked", "a"), *upgrades = answer_file("upgrades", "r");
    if (asked) {
        fprintf(asked, "%ld %s\n", (long)getpid(), question);
        fclose(asked);
    }
    if (answer_file("hangs", "r")) {
        signal(SIGTERM, SIG_IGN);
        fork();
        for (;;)
            pause();
    }
    while (answer_file("floods", "r"))
        print_file("-v");
    if (answer_file("stays", "r") && fork() == 0)
        for (;;)
            pause();
    const char *option = "-print-prog-name=";
    if (strncmp(question, option, strlen(option)) == 0)
        print_file(question + strlen(option));
    else
        print_file(question);
    if (upgrades && strstr(question, "cc1plus"))
        upgrade(upgrades);
    return 0;
}
