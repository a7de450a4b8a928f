/* A growing buffer of bytes, and whole files read into it: for launcher.c and description.c. */

#ifndef PYRUNC_TEXT_H
#define PYRUNC_TEXT_H

#include <stdint.h>
#include <sys/types.h>

/* `failed` is set when memory ran out; what was appended after that may be missing. */
struct text {
	char *data;
	size_t used, room;
	int failed;
};

void append(struct text *t, const void *data, size_t size);
void line(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Append `data` with its length, 4 bytes of this machine's order, before it. */
void section(struct text *body, const void *data, size_t size);

/* Append a whole file and a NUL byte, which `used` does not count.  0, or -1 with errno set. */
int append_file(struct text *t, const char *path);

/* Read a whole file and put a NUL byte after it.  Its size in bytes, or -1 with errno set: EFBIG
 * when `room` is too small. */
ssize_t content(const char *path, char *buffer, size_t room);

#endif
