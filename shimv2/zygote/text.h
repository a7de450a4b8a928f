/* A growing buffer of bytes, and functions that read whole files: for launcher.c and description.c. */

#ifndef PYRUNC_TEXT_H
#define PYRUNC_TEXT_H

#include <stdint.h>
#include <sys/types.h>

/* `failed` is 1 after memory ran out: then the content is not complete. */
struct text {
	char *data;
	size_t used, room;
	int failed;
};

void append(struct text *t, const void *data, size_t size);
void line(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Append the length of `data` (4 bytes, in this machine's byte order) and `data`. */
void section(struct text *body, const void *data, size_t size);

/* Append a whole file and a NUL byte, which `used` does not count.  Returns 0, or -1 with errno set. */
int append_file(struct text *t, const char *path);

/* Read a whole file and put a NUL byte after it.  Returns its size in bytes, or -1 with errno set (EFBIG
 * if `room` is too small). */
ssize_t content(const char *path, char *buffer, size_t room);

#endif
