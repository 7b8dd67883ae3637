#ifndef GETHOST_ARRAY_H
#define GETHOST_ARRAY_H

#define ARRAY_LENGTH(array) (sizeof(array) / sizeof *(array))

#endif
