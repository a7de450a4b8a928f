/* A text that grows, and files of /proc read whole: for launcher.c and what belongs to it. */

#ifndef PYRUNC_TEXT_H
#define PYRUNC_TEXT_H

#include <stdint.h>
#include <sys/types.h>

/* `failed` once something could not be had: then the cold way is taken. */
struct text {
	char *data;
	size_t used, room;
	int failed;
};

void append(struct text *t, const void *data, size_t size);
void line(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A part with its length before it. */
void section(struct text *body, const void *data, size_t size);

/* Read a file to its end, with a NUL after it; -1 when it cannot be read. */
ssize_t content(const char *path, char *buffer, size_t room);

#endif
