#define _GNU_SOURCE
#include "text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES 4096

static int reserve(struct text *t, size_t size)
{
	if (t->used + size > t->room) {
		size_t room = (t->used + size) * 2;
		char *grown = realloc(t->data, room);

		if (!grown) {
			t->failed = 1;
			return 0;
		}
		t->data = grown;
		t->room = room;
	}
	return 1;
}

void append(struct text *t, const void *data, size_t size)
{
	if (size && reserve(t, size)) {
		memcpy(t->data + t->used, data, size);
		t->used += size;
	}
}

void line(struct text *t, const char *format, ...)
{
	char buffer[PATH_MAX + 256];
	va_list args;
	int size;

	va_start(args, format);
	size = vsnprintf(buffer, sizeof buffer, format, args);
	va_end(args);
	if (size < 0 || (size_t)size >= sizeof buffer)
		t->failed = 1;
	else
		append(t, buffer, size);
}

void section(struct text *body, const void *data, size_t size)
{
	uint32_t length = size;

	append(body, &length, sizeof length);
	append(body, data, size);
}

int append_file(struct text *t, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), error;
	ssize_t got = -1;

	if (fd < 0)
		return -1;
	errno = ENOMEM;
	while (reserve(t, READ_BYTES) && (got = read(fd, t->data + t->used, READ_BYTES - 1)) > 0)
		t->used += got;
	error = t->failed ? ENOMEM : errno;
	close(fd);
	errno = error;
	if (t->failed || got < 0)
		return -1;
	t->data[t->used] = 0;
	return 0;
}

ssize_t content(const char *path, char *buffer, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), error;
	size_t used = 0;
	ssize_t got = -1;

	if (fd < 0)
		return -1;
	while (used < room && (got = read(fd, buffer + used, room - used)) > 0)
		used += got;
	error = got < 0 ? errno : EFBIG;
	close(fd);
	errno = error;
	if (got < 0 || used == room) /* no room for the NUL byte */
		return -1;
	buffer[used] = 0;
	return used;
}
