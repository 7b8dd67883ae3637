/* What gethost asks host-server for: its words in a line. See request.h.
 *
 * This file does not know servers or connections.
 */
#define _GNU_SOURCE
#include "request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpus.h"
#include "lease.h"

void request_avoid(struct request *request, const char *host)
{
    char *avoid = request->avoid;
    size_t length = strlen(avoid);
    snprintf(avoid + length, sizeof request->avoid - length, "%s%s", length ? "," : "", host);
}

/* The user's name is not looked up in the user database: that may be a server that is slow. */
void request_add_builder(struct line *line)
{
    const char *user = getenv("USER");
    if (!user || !*user)
        user = getenv("LOGNAME");
    if (user && *user)
        line_add(line, "user", user);
    else
        line_add_format(line, "user", "uid%lu", (unsigned long)geteuid());
    char name[HOST_SIZE] = "";
    if (gethostname(name, sizeof name - 1) == 0 && *name)
        line_add(line, "builder", name);
    line_add_format(line, "cpus", "%d", builder_cpus());
}

void request_add_compile(struct line *line, const struct request *request)
{
    request_add_builder(line);
    if (request->type)
        line_add(line, "type", request->type);
    if (*request->avoid)
        line_add(line, "avoid", request->avoid);
    if (request->compiler)
        line_add(line, "compiler", request->compiler);
    if (request->identity) {
        line_add(line, "compiler_id", request->identity->id);
        line_add(line, "compiler_name", request->identity->name);
        line_add(line, "compiler_version", request->identity->version);
        line_add(line, "compiler_target", request->identity->target);
        line_add(line, "compiler_text", request->identity->text);
    }
    if (request->source)
        line_add(line, "source", request->source);
    if (request->can_back_up)
        line_add(line, "backup", "yes");
    char directory[4096];
    if (getcwd(directory, sizeof directory))
        line_add(line, "dir", directory);
}
