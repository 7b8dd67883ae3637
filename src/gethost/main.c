/* gethost: a stand-in that prints its version, until the real one is here. */
#include <stdio.h>

int main(void)
{
    puts("gethost " GETHOST_VERSION);
    return 0;
}
